# The image of attendance-backup, for docker, podman and buildah: `make image` builds and tries it.
#
#   --build-arg SOURCE_COMMIT=$(git rev-parse HEAD)              what `--version` tells
#   --secret id=certificates,src=/etc/ssl/certs/company.pem      where a proxy signs for the registries of npm and cargo
#   --build-arg RUST_IMAGE=rust:1.95-slim-bookworm@sha256:…      pins a base by its digest; the tags move with security updates
#
# Build and runtime are of one Debian release, for the C library that they share.

ARG NODE_IMAGE=docker.io/library/node:20-bookworm-slim
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=docker.io/library/debian:bookworm-slim

# What the page is made of besides what is here. No script of any package is run.
FROM ${NODE_IMAGE} AS assets
WORKDIR /build/assets
COPY assets/package.json assets/package-lock.json ./
RUN --mount=type=secret,id=certificates \
    if [ -e /run/secrets/certificates ]; then export NODE_EXTRA_CA_CERTS=/run/secrets/certificates; fi; \
    npm ci --ignore-scripts --no-audit --no-fund --silent

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# Nobody debugs it in the image; a panic tells its line all the same.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=symbols
# First the dependencies, with an empty program in the place of ours: they are built anew only when their list changes.
COPY Cargo.toml Cargo.lock build.rs ./
COPY .cargo .cargo
COPY --from=assets /build/assets/node_modules assets/node_modules
RUN --mount=type=secret,id=certificates \
    if [ -e /run/secrets/certificates ]; then export CARGO_HTTP_CAINFO=/run/secrets/certificates; fi; \
    mkdir -p src benches tests/suite && \
    touch src/lib.rs benches/codec.rs benches/journal.rs tests/suite/main.rs && \
    echo 'fn main() {}' >src/main.rs && \
    cargo build --release --locked --bin attendance-backup
COPY src src
COPY assets assets
ARG SOURCE_COMMIT=
# The sources are older than the empty program, which cargo must not take for theirs.
RUN touch src/lib.rs src/main.rs && \
    cargo build --release --locked --offline --bin attendance-backup && \
    mkdir -p root/data root/usr/local/bin root/etc/ssl/certs && \
    cp target/release/attendance-backup root/usr/local/bin/ && \
    cp /etc/ssl/certs/ca-certificates.crt root/etc/ssl/certs/ && \
    chmod 1777 root/data

FROM ${RUNTIME_IMAGE}
# The program, the authorities that stores elsewhere are checked against, and /data: like /tmp for everybody, since whoever runs
# this is the app's user, and a new volume begins with what lies here. What is made in it belongs to who made it.
COPY --from=build /build/root/ /
WORKDIR /data
# glibc keeps freed memory in a pool for every few threads, which comes to more than twice of what is used; two will do.
ENV MALLOC_ARENA_MAX=2 \
    BACKUP_BIND=0.0.0.0:8080 \
    BACKUP_DIRECTORY=/data/backups \
    BACKUP_DATABASES=attendance=/data/attendance.db,auth=/data/auth.db
# Any will do, with or without a name and a home: the one who owns the databases.
USER 1000:1000
EXPOSE 8080
# A backup that runs then is undone, a restore ends; both take moments.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 CMD ["attendance-backup", "healthcheck"]
ENTRYPOINT ["attendance-backup"]
CMD ["serve"]
ARG SOURCE_COMMIT=
LABEL org.opencontainers.image.title="attendance-backup" \
      org.opencontainers.image.description="Consistent backups of live SQLite databases: rotated, verified, restored under a running app" \
      org.opencontainers.image.licenses="GPL-3.0-or-later" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${SOURCE_COMMIT}"

# The commands of the README, and what stands behind them.

.PHONY: demo test ci bench faults model fuzz soak load docs image deb

# Two sample databases, an app that writes to them, a first backup, and what to try next. BIND=127.0.0.1:8081 is another address.
demo:
	scripts/setup build
	cargo build --release
	target/release/attendance-backup demo $(if $(BIND),--bind $(BIND))

# Format, lints and all tests, from a clean checkout. Those of the journal and of replicas wait for clocks and stores most of the
# time: more of them go at once. Those that hold the program to so much memory come last, by themselves.
test:
	scripts/setup test
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings
	cargo test -- --skip memory --skip journal_ --skip replica_
	cargo test -- --test-threads=4 --skip memory journal_ replica_
	cargo test -- --test-threads=1 memory

ci: test

# Every point of the tests that CI samples: kills, full disks, failing calls, power cuts. In the end, how all of them came out.
# FAULTS="faults_tried" OPERATIONS="drill,restore --at" tries what the table of faults has for these operations only.
faults:
	scripts/setup test
	rm -f $(FAULTS_REPORT)
	THOROUGH=10 FAULTS_REPORT=$(FAULTS_REPORT) cargo test --test suite -- --nocapture --test-threads=1 $(FAULTS); \
		status=$$?; scripts/faults_table $(FAULTS_REPORT); exit $$status

FAULTS_REPORT = $(CURDIR)/target/faults.tsv
FAULTS = crash faults power disk killed journal_dies restore_race restore_flat_out answered_otherwise

# A long random sequence of all that can happen, held against a simple model after each step: STEPS of them in each of three forms.
# The seed is told; SEED=… does the same again.
model:
	scripts/setup test
	MODEL_STEPS=$(or $(STEPS),2000) MODEL_SEED=$(or $(SEED),$(shell date +%s)) cargo test --test suite -- --nocapture model::

# Names, documents, streams, databases and requests that somebody else has written: CASES of each kind, from the seeds of tests/corpus.
fuzz:
	scripts/setup test
	PROPTEST_CASES=$(or $(CASES),10000) cargo test --lib -- backup:: journal::ltx
	FUZZ_CASES=$(or $(CASES),10000) cargo test --test suite -- --nocapture fuzz_

# 20 minutes: an app commits 200 times a second beside the journal, and any instant of it is restored and compared meanwhile.
# MINUTES=480 is another: for so long everything works at once, and nothing may grow.
soak:
	scripts/setup $(if $(MINUTES),test,build)
	cargo build --release
	scripts/soak$(if $(MINUTES),_day --minutes $(MINUTES))

# Hundreds of clients, an app that commits 200 times a second, and backups of 1 GB, all at once: what each waits for.
load:
	scripts/setup build
	cargo build --release
	scripts/load

# `create` beside `sqlite3 .backup`, VACUUM INTO and better-sqlite3, `restore` beside `.restore`, the codec beside `zstd | age`,
# downloads beside nginx, in turn; lists and status under load; what replicas hold and are sent, beside restic; the journal beside
# litestream. docs/benchmarks.md is made of what comes out.
bench:
	scripts/setup bench
	cargo build --release
	cargo bench --no-run
	rm -rf $(FIGURES)
	scripts/bench --json $(FIGURES)/create.json
	scripts/bench_restore --json $(FIGURES)/restore.json
	scripts/bench_codec --json $(FIGURES)/codec.json
	scripts/bench_http --json $(FIGURES)/http.json
	scripts/bench_replica --json $(FIGURES)/replica.json
	scripts/bench_journal --json $(FIGURES)/journal.json
	scripts/bench_table

FIGURES = target/bench

# docs/ as a small site in target/book. mdBook is built once, which takes minutes.
docs:
	cargo install --locked --quiet --root target/tools mdbook --version 0.5.4 --no-default-features --features search
	target/tools/bin/mdbook build

# The image, built by docker, podman or buildah, and tried as docker-compose.yml runs it. IMAGE_OPTIONS go to the engine's build.
image:
	scripts/image $(IMAGE_OPTIONS)

# The Debian package, in target/debian.
deb:
	scripts/setup build
	cargo build --release --locked
	scripts/deb

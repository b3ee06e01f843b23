//! What Dockerfile, docker-compose.yml, the unit of systemd and the Debian package promise, read from them. Whether an image keeps
//! it, `make image` tries.

use std::path::Path;
use std::process::Command;

use attendance_backup::config::{REPLICA_VARIABLES, VARIABLES};
use serde_json::Value;

use crate::harness::{PROGRAM, Run};

fn path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string()
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A file as the Python of the tests reads it: as JSON.
fn read_by(python: &str, name: &str) -> Value {
    let mut command = Command::new(path("target/venv/bin/python"));
    let run = Run::of(command.args(["-c", python, &path(name)]).output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

fn compose() -> Value {
    read_by("import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))", "docker-compose.yml")
}

/// Instructions of a Dockerfile: comments gone, continued lines joined.
fn instructions(name: &str) -> Vec<String> {
    let lines: Vec<_> = text(name).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    lines.join("\n").replace("\\\n", " ").lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn is_known(variable: &str) -> bool {
    let plain = variable.strip_suffix("_FILE").unwrap_or(variable);
    let of_replica = || {
        let end = plain.strip_prefix("BACKUP_REPLICA_").and_then(|rest| rest.split_once('_'));
        end.is_some_and(|(_, end)| REPLICA_VARIABLES.iter().any(|known| known.env == end))
    };
    VARIABLES.iter().any(|known| known.env == plain || known.env == variable) || of_replica()
}

#[test]
fn every_variable_in_them_is_one_that_the_program_knows() {
    for name in
        ["Dockerfile", "docker-compose.yml", "deploy/s3.env", "deploy/attendance-backup.env", "docs/deploying.md"]
    {
        let text = text(name);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let named: Vec<_> = words.filter(|word| word.starts_with("BACKUP_") && word.len() > 7).collect();
        assert!(!named.is_empty(), "{name} sets nothing");
        for variable in named {
            assert!(is_known(variable), "{name} names {variable}, which means nothing");
        }
    }
}

#[test]
fn the_image_is_nobodys_root_and_looks_after_itself() {
    let lines = instructions("Dockerfile");
    let last = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
    let of_runtime: Vec<_> = lines[last..].iter().map(String::as_str).collect();
    let expected = [
        "USER 1000:1000",
        "WORKDIR /data",
        "STOPSIGNAL SIGTERM",
        "ENTRYPOINT [\"attendance-backup\"]",
        "CMD [\"serve\"]",
    ];
    for line in expected {
        assert!(of_runtime.contains(&line), "{line} is not in the Dockerfile's last stage");
    }
    let health = of_runtime.iter().find(|line| line.starts_with("HEALTHCHECK ")).unwrap();
    assert!(health.ends_with("CMD [\"attendance-backup\", \"healthcheck\"]"), "{health}");
    let labels = of_runtime.iter().find(|line| line.starts_with("LABEL ")).unwrap();
    assert!(labels.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")), "{labels}");
    // Nothing runs there that could leave something: no package manager, no shell. Nothing comes in but what was built.
    let is = |word: &'static str| move |line: &&&str| line.starts_with(word);
    assert!(!of_runtime.iter().any(|line| is("RUN ")(&line) || is("ADD ")(&line)), "{of_runtime:?}");
    let users: Vec<_> = of_runtime.iter().filter(is("USER ")).collect();
    let copied: Vec<_> = of_runtime.iter().filter(is("COPY ")).collect();
    assert_eq!((users, copied), (vec![&"USER 1000:1000"], vec![&"COPY --from=build /build/root/ /"]));
    for name in ["Dockerfile", "deploy/app/Dockerfile"] {
        let lines = instructions(name);
        let images = lines.iter().filter_map(|line| line.strip_prefix("ARG ")?.split_once("_IMAGE=").map(|it| it.1));
        let direct = lines.iter().filter_map(|line| line.strip_prefix("FROM ")).filter(|image| !image.contains('$'));
        let named: Vec<_> = images.chain(direct).collect();
        assert!(!named.is_empty(), "{name} is built on nothing");
        for image in named {
            assert!(image.starts_with("docker.io/"), "{image} is looked for wherever the engine likes");
            assert!(image.contains(':') && !image.contains(":latest"), "{image} is a different one each day");
        }
    }
}

/// What isn't named stays out: databases, secrets, other builds.
#[test]
fn the_image_is_built_from_the_sources_alone() {
    let text = text(".dockerignore");
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    let let_in: Vec<_> = lines.filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(let_in, ["Cargo.toml", "Cargo.lock", "build.rs", ".cargo", "src", "assets"]);
}

#[test]
fn compose_runs_the_backups_as_the_app_and_as_nobody_else() {
    let compose = compose();
    let user = "${APP_UID:-1000}:${APP_GID:-1000}";
    assert_eq!(compose["services"]["app"]["user"], user);
    for name in ["backup", "backup-before-update"] {
        let service = &compose["services"][name];
        assert_eq!(service["user"], user, "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], serde_json::json!(["no-new-privileges:true"]), "{name}");
        for more in ["privileged", "cap_add", "network_mode", "pid", "ipc", "devices"] {
            assert!(service[more].is_null(), "{name} has {more}");
        }
        assert!(service["pids_limit"].is_u64() && service["mem_limit"].is_string(), "{name}");
        assert_eq!(service["stop_grace_period"], "1m", "{name}");
        // Both read `backup.env`, which may name any of them.
        assert_eq!(service["secrets"], serde_json::json!(["jwt_secret"]), "{name}");
        assert_eq!(
            service["volumes"], compose["services"]["app"]["volumes"],
            "{name} is on another volume than the app"
        );
    }
    let backup = &compose["services"]["backup"];
    assert_eq!(backup["healthcheck"]["test"], serde_json::json!(["CMD", "attendance-backup", "healthcheck"]));
    assert_eq!(backup["environment"]["BACKUP_JWT_SECRET_FILE"], "/run/secrets/jwt_secret");
    assert!(compose["secrets"]["jwt_secret"]["file"].is_string());
    for port in backup["ports"].as_array().unwrap() {
        assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{port} is open to everybody");
    }
}

/// A file mount loses commits; a folder that is there for a whole volume doesn't.
#[test]
fn compose_mounts_no_single_file() {
    let compose = compose();
    let volumes = compose["volumes"].as_object().unwrap();
    for (name, service) in compose["services"].as_object().unwrap() {
        for mount in service["volumes"].as_array().unwrap() {
            let (source, target) = mount.as_str().unwrap().split_once(':').unwrap();
            assert!(volumes.contains_key(source), "{name}: {mount} is no volume");
            assert!(Path::new(target).extension().is_none(), "{name}: {mount} looks like a file");
        }
    }
}

/// The command, as it stands there, with the settings as they stand there.
#[test]
fn compose_begins_each_deployment_with_a_backup() {
    let compose = compose();
    let app = &compose["services"]["app"];
    let awaited = &app["depends_on"]["backup-before-update"]["condition"];
    assert_eq!(awaited, "service_completed_successfully");
    let service = &compose["services"]["backup-before-update"];
    assert_eq!(service["restart"], "no");
    let args: Vec<_> = service["command"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(args.contains(&"before update") && args.contains(&"--if-present"), "{args:?}");
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    for (name, value) in service["environment"].as_object().unwrap() {
        let value = value.as_str().unwrap().replace("/data", data.path().to_str().unwrap());
        command.env(name, value.replace("${BACKUP_TIMEZONE:-UTC}", "UTC"));
    }
    command.args(&args);
    let mut take = || Run::of(command.output().unwrap());
    let first = take();
    assert!(first.code == 0 && first.stdout.contains("nothing to back up yet"), "{}{}", first.stdout, first.stderr);
    let app = stand_in(data.path());
    let second = take();
    app.stop();
    let whole = second.stdout.starts_with("manual-") && !second.stdout.contains("note: without");
    assert!(second.code == 0 && whole, "{}{}", second.stdout, second.stderr);
}

/// `deploy/app/app.py`, writing.
struct StandIn(std::process::Child);

fn stand_in(data: &Path) -> StandIn {
    use std::io::BufRead;
    let mut command = crate::harness::python3();
    command.arg(path("deploy/app/app.py")).arg(data).arg("0.01").stdout(std::process::Stdio::piped());
    let mut app = StandIn(command.spawn().unwrap());
    let mut line = String::new();
    std::io::BufReader::new(app.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("writing to "), "{line}");
    app
}

impl StandIn {
    /// As a container is stopped.
    fn stop(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        crate::harness::kill(&mut self.0);
    }
}

#[test]
fn the_unit_of_systemd_is_sound_and_gives_it_little() {
    let unit = text("deploy/attendance-backup.service");
    let has = |line: &str| unit.lines().any(|it| it == line);
    for line in [
        "ExecStart=/usr/bin/attendance-backup serve",
        "EnvironmentFile=/etc/attendance-backup.env",
        "User=attendance",
        "Group=attendance",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=~@privileged",
        "CapabilityBoundingSet=",
        "Restart=on-failure",
        "KillSignal=SIGTERM",
        "TimeoutStopSec=1m",
        "WantedBy=multi-user.target",
    ] {
        assert!(has(line), "{line} is not in the unit");
    }
    // The user is the app's, and what it has in memory is the app's too.
    assert!(!unit.lines().any(|line| line.starts_with("RemoveIPC=")), "it would take the app's memory away");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("attendance-backup.service");
    std::fs::write(&file, unit.replace("/usr/bin/attendance-backup", PROGRAM)).unwrap();
    let verified = Run::of(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap());
    let ours: Vec<_> = verified.stderr.lines().filter(|line| line.contains("attendance-backup")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    // From 0 (nothing) to 10 (everything); more than 2 is too much.
    let mut analysed = Command::new("systemd-analyze");
    let exposed = Run::of(analysed.args(["security", "--offline=true", "--threshold=20"]).arg(&file).output().unwrap());
    assert_eq!(exposed.code, 0, "{}{}", exposed.stdout, exposed.stderr);
}

/// It asks for nothing that isn't there, and what it puts into /etc is for root.
#[test]
fn the_package_has_all_that_it_names() {
    let python = "import json, sys, tomllib; print(json.dumps(tomllib.load(open(sys.argv[1], 'rb'))['package']))";
    let package = read_by(python, "Cargo.toml");
    let deb = &package["metadata"]["deb"];
    assert_eq!(deb["conf-files"], serde_json::json!(["/etc/attendance-backup.env"]));
    assert_eq!((&deb["systemd-units"]["enable"], &deb["systemd-units"]["start"]), (&false.into(), &false.into()));
    for asset in deb["assets"].as_array().unwrap() {
        let field = |at: usize| asset[at].as_str().unwrap();
        assert!(field(1) != "etc/attendance-backup.env" || field(2) == "600", "{asset}");
        let named = field(0).split('*').next().unwrap();
        assert!(named.starts_with("target/") || Path::new(&path(named)).exists(), "{asset} isn't there");
    }
    let assets = deb["assets"].as_array().unwrap();
    let program = serde_json::json!(["target/release/attendance-backup", "usr/bin/", "755"]);
    assert!(assets.contains(&program), "the program isn't in it");
    // Under that name it is looked for there.
    let folder = deb["systemd-units"]["unit-scripts"].as_str().unwrap();
    assert!(Path::new(&path(folder)).join("attendance-backup.service").exists(), "there is no unit in {folder}");
    // Enabling, stopping and purging are put in there.
    let folder = deb["maintainer-scripts"].as_str().unwrap();
    assert!(text(&format!("{folder}/postinst")).contains("\n#DEBHELPER#\n"));
}

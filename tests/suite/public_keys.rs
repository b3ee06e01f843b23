//! Public keys: the app signs with its private key, and we can only check.

use std::process::Command;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;

use crate::client::{Answer, Server, base64url, in_an_hour, sign_with, superuser};
use crate::harness::{PROGRAM, Place, Run};

/// A pair as `openssl` makes it.
struct Pair {
    private: String,
    public: String,
}

fn openssl(place: &Place, args: &str) -> String {
    let output = Command::new("openssl").args(args.split(' ')).current_dir(place.path("")).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pair(place: &Place, kind: &str) -> Pair {
    let private = openssl(place, &format!("genpkey -algorithm {kind}"));
    std::fs::write(place.path("private.pem"), &private).unwrap();
    Pair { private, public: openssl(place, "pkey -in private.pem -pubout") }
}

const RSA: &str = "RSA -pkeyopt rsa_keygen_bits:2048";
const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";
const ED25519: &str = "ED25519";

/// The algorithms: name, kind of key.
const ALGORITHMS: [(&str, Algorithm, &str); 3] =
    [("RS256", Algorithm::RS256, RSA), ("ES256", Algorithm::ES256, P256), ("EdDSA", Algorithm::EdDSA, ED25519)];

impl Pair {
    fn sign(&self, algorithm: Algorithm, header: &str) -> String {
        let pem = self.private.as_bytes();
        let key = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem),
            _ => EncodingKey::from_ed_pem(pem),
        };
        let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims().as_bytes()));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key.unwrap(), algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

fn claims() -> String {
    json!({ "sub": "ada", "aud": "backup", "exp": in_an_hour(), "role": "superuser" }).to_string()
}

fn header(algorithm: &str) -> String {
    json!({ "alg": algorithm, "typ": "JWT" }).to_string()
}

/// With a public key in place of the secret.
fn command(place: &Place, program: &str, algorithm: &str, public: &str) -> Command {
    let mut command = place.command_of(program);
    command.env_remove("BACKUP_JWT_SECRET").env("BACKUP_ENABLED", "false");
    command.env("BACKUP_JWT_ALGORITHM", algorithm).env("BACKUP_JWT_PUBLIC_KEY", public);
    command
}

fn serve(place: &Place, command: &mut Command) -> Server {
    Server::of(command.arg("serve"), place.path("serve.log"))
}

fn status(server: &Server, token: &str) -> Answer {
    server.request("GET", "/api/backup/status").token(token).send()
}

#[test]
fn what_the_private_key_signs_is_let_in_and_nothing_else() {
    let place = Place::new();
    for (name, algorithm, kind) in ALGORITHMS {
        let (ours, other) = (pair(&place, kind), pair(&place, kind));
        let server = serve(&place, &mut command(&place, PROGRAM, name, &ours.public));
        let good = ours.sign(algorithm, &header(name));
        status(&server, &good).ok();
        // The key that everybody may know signs nothing: not as a secret, however its lines end.
        let public = ours.public.as_str();
        let body: String = public.lines().filter(|line| !line.starts_with('-')).collect();
        for secret in [public, public.trim(), &public.replace('\n', "\r\n"), &body] {
            for header in [header("HS256"), header(name)] {
                status(&server, &sign_with(secret, &header, &claims())).problem(401, "unauthenticated");
            }
        }
        let bad = [
            superuser(),
            other.sign(algorithm, &header(name)),
            ours.sign(algorithm, &header("HS256")),
            ours.sign(algorithm, &header("none")),
            format!("{}.", good.rsplit_once('.').unwrap().0),
            format!("{}.{}", good.rsplit_once('.').unwrap().0, base64url(&[0; 64])),
        ];
        for token in bad {
            status(&server, &token).problem(401, "unauthenticated");
        }
        if algorithm == Algorithm::RS256 {
            status(&server, &ours.sign(Algorithm::PS256, &header("PS256"))).problem(401, "unauthenticated");
        }
        status(&server, &good).ok();
    }
}

#[test]
fn a_key_that_is_not_for_the_algorithm_stops_the_start() {
    let place = Place::new();
    let kinds = [
        RSA,
        P256,
        ED25519,
        "ED448",
        "EC -pkeyopt ec_paramgen_curve:P-384",
        "EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
        "RSA -pkeyopt rsa_keygen_bits:1024",
    ];
    let start = |algorithm: &str, public: &str| {
        let mut command = command(&place, "timeout", algorithm, public);
        Run::of(command.args(["20", PROGRAM, "serve"]).output().unwrap())
    };
    for kind in kinds {
        let pair = pair(&place, kind);
        for (name, _, own) in ALGORITHMS.into_iter().filter(|(.., own)| *own != kind) {
            let run = start(name, &pair.public);
            assert_eq!(run.code, 1, "{name} by a key for {own}, not {kind}: {}", run.stderr);
            run.refused(1, &["BACKUP_JWT_PUBLIC_KEY", &format!("BACKUP_JWT_ALGORITHM={name}")]);
        }
        // A private key has no business here, and isn't shown.
        let run = start("EdDSA", &pair.private);
        run.refused(2, &["BACKUP_JWT_PUBLIC_KEY", "a public key in PEM"]);
        assert!(!run.stderr.contains(pair.private.lines().nth(1).unwrap()), "{}", run.stderr);
    }
    let text = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2Vw\n-----END PUBLIC KEY-----";
    start("EdDSA", text).refused(1, &["BACKUP_JWT_PUBLIC_KEY", "BACKUP_JWT_ALGORITHM=EdDSA"]);
    // A secret and a public key don't go together.
    let pair = pair(&place, ED25519);
    start("HS256", &pair.public).refused(2, &["BACKUP_JWT_PUBLIC_KEY", "HS256 takes a secret"]);
    assert!(!place.backups().exists());
}

#[test]
fn the_previous_public_key_counts_until_the_instant_that_is_set() {
    let place = Place::new();
    let (old, new) = (pair(&place, ED25519), pair(&place, ED25519));
    for (until, expected) in [("2999-01-01T00:00:00Z", 200), ("2020-01-01T00:00:00Z", 401)] {
        let mut command = command(&place, PROGRAM, "EdDSA", &new.public);
        std::fs::write(place.path("previous.pem"), &old.public).unwrap();
        command.env("BACKUP_JWT_PREVIOUS_PUBLIC_KEY_FILE", place.path("previous.pem"));
        let server = serve(&place, command.env("BACKUP_JWT_PREVIOUS_UNTIL", until));
        let answer = |pair: &Pair| status(&server, &pair.sign(Algorithm::EdDSA, &header("EdDSA"))).status;
        assert_eq!((answer(&old), answer(&new)), (expected, 200), "{until}");
    }
}

#[test]
fn with_a_public_key_alone_no_token_can_be_made_and_it_is_said_why() {
    let place = Place::new();
    let public = pair(&place, ED25519).public;
    let run = Run::of(command(&place, PROGRAM, "EdDSA", &public).arg("token").output().unwrap());
    run.refused(1, &["only a public key is configured"]);
    assert_eq!(run.stdout, "");
    assert!(!place.backups().exists(), "a token that wasn't made was written down");
}

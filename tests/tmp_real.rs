use attendance_backup::remote::*;
use std::io::{Read, Write};
#[test]
fn real() {
    attendance_backup::telemetry::start(
        attendance_backup::config::Level::Trace,
        attendance_backup::config::LogFormat::Text,
    );
    let url = std::env::var("REAL_URL").unwrap();
    let v = |n: &str| std::env::var(n).ok();
    let c = Credentials {
        access_key: v("AK"),
        secret_key: v("SK"),
        username: v("USERNAME"),
        password: v("PASSWORD"),
        ..Default::default()
    };
    let place = Place::parse(&url, c).unwrap();
    let r = Remote::open(&place, &Pace { timeout: std::time::Duration::from_secs(5), bandwidth: None }).unwrap();
    println!("list {:?}", r.list(""));
    println!("get missing {:?}", r.get("catalog/0000000001-abc.json", 10));
    r.put("lease.json", b"{}").unwrap();
    r.put("lease.json", b"{ }").unwrap();
    println!("get {:?}", r.get("lease.json", 10));
    println!("get missing {:?}", r.get("catalog/0000000001-abc.json", 10));
    let content: Vec<u8> = (0..41_000_000u32).map(|i| (i / 3 * 7) as u8).collect();
    let t = std::time::Instant::now();
    let mut u = r.upload("backups/20260108T010000Z-0000000412/attendance.db.zst").unwrap();
    u.write_all(&content).unwrap();
    let w = u.finish().unwrap();
    println!("up {w:?} {:?}", t.elapsed());
    let mut back = Vec::new();
    let t = std::time::Instant::now();
    r.download("backups/20260108T010000Z-0000000412/attendance.db.zst", w.parts)
        .unwrap()
        .read_to_end(&mut back)
        .unwrap();
    println!("down {} {:?}", back == content, t.elapsed());
    println!("list {:?}", r.list(""));
    println!("list {:?}", r.list("backups"));
    for l in r.list("").unwrap() {
        r.delete(&l.key).unwrap();
        r.delete(&l.key).unwrap();
    }
    println!("list {:?}", r.list(""));
    println!("{:?}", r.download("backups/x", 0).err());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{:?}", status.lines().find(|l| l.starts_with("VmHWM")));
}

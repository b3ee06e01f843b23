//! What stands below the tests in a browser: it notices what it must, and leaves nothing behind.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::browser::{Browser, TURNS, Turn};
use crate::harness::eventually;

/// A server of a few pages, each of which fails or does well in its own way.
pub fn pages() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || drop(answer(stream.unwrap())));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut line = String::new();
    let mut lines = BufReader::new(stream.try_clone()?);
    lines.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while lines.read_line(&mut line)? > 2 {}
    let (status, header, body) = page(&path);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{header}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    let (first, rest) = body.split_at(body.len() / 2);
    stream.write_all(first.as_bytes())?;
    if path == "/slow" {
        std::thread::sleep(Duration::from_secs(1));
    }
    stream.write_all(rest.as_bytes())
}

const STRICT: &str = "Content-Type: text/html\r\nContent-Security-Policy: default-src 'none'; img-src data:";

fn page(path: &str) -> (&'static str, &'static str, String) {
    let html = "Content-Type: text/html\r\nSet-Cookie: a=1; HttpOnly";
    let script = "<p id=said>before</p><script>document.getElementById('said').textContent = 'after'</script>";
    let (status, header, body) = match path {
        "/good" => ("200 OK", STRICT, "<h1>Backups</h1><p>All is well".to_owned()),
        "/bad" => {
            ("200 OK", html, "<h1>Bad</h1><img src='data:,'><p style='color: #ccc; background: #fff'>pale".to_owned())
        }
        "/restless" => {
            let reload = "<script>setTimeout(() => location.reload(), Math.random() * 150)</script>";
            ("200 OK", html, format!("<h1>Restless</h1><p><label>Name <input id=name></label></p>{reload}"))
        }
        "/inline" => ("200 OK", STRICT, script.to_owned()),
        "/script" => ("200 OK", html, format!("{script}<noscript><p id=without>without</noscript>")),
        "/person" => ("200 OK", html, PERSON.to_owned()),
        "/conflict" => ("409 Conflict", html, "<h1>Busy</h1>".to_owned()),
        // To where the rest of the path says, as soon as it is seen.
        _ if path.starts_with("/forged/") => {
            let form = "<input name=reason value=forged></form><script>document.forms[0].submit()</script>";
            ("200 OK", html, format!("<form method=post action='http://{}'>{form}", &path["/forged/".len()..]))
        }
        "/slow" => {
            return ("200 OK", "Content-Disposition: attachment; filename=\"copy.db\"", "0123456789".repeat(100_000));
        }
        _ => return ("404 Not Found", html, String::new()),
    };
    let head = "<!doctype html><html lang=en><title>Pages</title><link rel=icon href='data:,'>\
        <meta name=viewport content='width=device-width'>";
    (status, header, format!("{head}<main>{body}</main>"))
}

const PERSON: &str = "
    <h1 style='margin-bottom: 3000px'>A page</h1>
    <form><label for=name>Name</label> <input id=name value=Ada> <button type=button id=save>Save</button></form>
    <p id=status></p> <p id=hidden hidden>hidden</p>
    <script>
        const say = text => document.getElementById('status').textContent = text;
        document.getElementById('save').onclick = () => setTimeout(() => {
            say('saved ' + document.getElementById('name').value);
            document.getElementById('hidden').hidden = false;
        }, 300);
        document.onkeydown = event => { if (event.key === 'Escape') document.getElementById('hidden').remove() };
    </script>";

/// It panics; with what words.
fn noticed(check: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("nothing was noticed");
    panic.downcast_ref::<String>().unwrap().clone()
}

/// Opens a page of ours.
fn at(path: &str) -> Browser {
    let browser = Browser::start();
    browser.go(&format!("http://{}{path}", pages()));
    browser
}

#[test]
fn a_breach_of_the_content_policy_is_noticed() {
    let browser = at("/inline");
    assert_eq!(browser.text("#said"), "before");
    browser.await_complaint();
    let said = noticed(|| browser.assert_quiet());
    assert!(said.contains("SEVERE security") && said.contains("Content Security Policy"), "{said}");
    assert!(said.contains("/inline\nbefore"), "where it was is not told: {said}");
    noticed(|| drop(browser));
}

#[test]
fn what_scripts_complain_of_is_noticed_at_the_latest_at_the_end() {
    let late = "setTimeout(() => { document.title = 'said'; throw Error('a complaint') })";
    for script in ["console.error('a complaint')", "console.warn('a complaint')", late] {
        let browser = at("/good");
        browser.assert_quiet();
        browser.script(script);
        if script == late {
            eventually("the timer", || (browser.script("return document.title") == "said").then_some(()));
        }
        let said = noticed(|| drop(browser));
        assert!(said.contains("a complaint"), "{said}");
    }
}

#[test]
fn each_failed_answer_is_noticed_but_for_those_expected() {
    let browser = at("/conflict");
    browser.await_complaint();
    noticed(|| browser.assert_quiet());
    browser.expect_status(409);
    browser.assert_quiet();
    browser.expect_status(409);
    browser.reload();
    browser.reload();
    browser.await_complaint();
    noticed(|| browser.assert_quiet());
    browser.expect_status(409);
    browser.assert_quiet();

    browser.expect_message("one of two");
    browser.script("console.error('one of two'); console.error('two of two')");
    browser.await_complaint();
    let said = noticed(|| browser.assert_quiet());
    assert!(said.contains("two of two") && !said.contains("one of two"), "{said}");
    browser.expect_message("two of two");
    browser.expect_status(404);
    browser.set_patience(Duration::from_millis(500));
    let said = noticed(|| drop(browser));
    assert!(said.contains("never told of an answer of status 404"), "{said}");
}

#[test]
fn what_people_cannot_use_is_noticed() {
    let browser = at("/bad");
    let said = noticed(|| browser.assert_accessible());
    for words in ["image-alt", "critical", "color-contrast", "serious", "#ccc"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    browser.go(&browser.url().replace("/bad", "/good"));
    browser.assert_accessible();
}

#[test]
fn javascript_off_is_off() {
    let browser = Browser::without_javascript(&[]);
    browser.go(&format!("http://{}/script", pages()));
    assert_eq!(browser.text("#said"), "before");
    assert_eq!(browser.text("#without"), "without");
    assert_eq!(browser.script("return document.title"), "Pages");
    assert_eq!(at("/script").text("#said"), "after");
}

#[test]
fn downloads_are_whole() {
    let browser = at("/good");
    browser.script("location = '/slow'");
    assert_eq!(std::fs::read(browser.downloaded("copy.db")).unwrap(), "0123456789".repeat(100_000).as_bytes());
}

#[test]
fn a_person_works_with_a_page() {
    let browser = at("/person");
    assert_eq!((browser.title().as_str(), browser.count("p"), browser.is_shown("#hidden")), ("Pages", 2, false));
    assert_eq!(browser.property("#name", "value").as_deref(), Some("Ada"));
    browser.fill("#name", "Ben");
    assert!(browser.has_focus("#name") && !browser.has_focus("#save"));
    browser.press("Tab");
    assert!(browser.has_focus("#save"));
    browser.press("Shift+Tab");
    assert!(browser.has_focus("//input[@id='name']"));
    assert_eq!(browser.attribute("#name", "value").as_deref(), Some("Ada"));
    browser.click_on("Save");
    browser.wait_text("#status", "saved Ben");
    browser.wait_for("#hidden");
    browser.press("Escape");
    browser.wait_gone("#hidden");

    browser.go(&browser.url().replace("/person", "/good"));
    browser.back();
    browser.wait_for("#name");
    let cookies = browser.cookies();
    assert_eq!((cookies.len(), &cookies[0]["name"], &cookies[0]["httpOnly"]), (1, &"a".into(), &true.into()));
    browser.forget_cookies();
    assert!(browser.cookies().is_empty());
    let said = noticed(|| browser.click("]"));
    assert!(said.contains("/person") && said.contains("A page"), "{said}");
}

#[test]
fn a_page_may_change_under_ones_hands() {
    let browser = at("/restless");
    for round in 0..4 {
        browser.fill("#name", &format!("round {round}"));
        browser.click("h1");
        let whole = || browser.is_shown("h1") && browser.count("p") == 1 && !browser.has_focus("h1");
        browser.wait_until("the page is whole", whole);
    }
}

#[test]
fn what_one_looks_with_can_be_chosen() {
    let browser = at("/person");
    let matches = |query| browser.script(&format!("return matchMedia('{query}').matches")) == true;
    assert!(matches("(prefers-color-scheme: light)") && matches("(prefers-reduced-motion: no-preference)"));
    browser.set_media("prefers-color-scheme", "dark");
    browser.set_media("prefers-reduced-motion", "reduce");
    browser.reload();
    assert!(matches("(prefers-color-scheme: dark)") && matches("(prefers-reduced-motion: reduce)"));
    browser.phone();
    assert!(matches("(width: 375px)") && matches("(height: 812px)") && matches("(pointer: coarse)"));

    let picture = browser.home().join("page.png");
    browser.screenshot(&picture);
    // The height stands in the head of the file.
    let height = u32::from_be_bytes(std::fs::read(picture).unwrap()[20..24].try_into().unwrap());
    assert!(height > 3000, "only {height} high");

    let first = browser.tab();
    browser.new_tab();
    assert_eq!(browser.url(), "about:blank");
    browser.switch(&first);
    assert!(browser.url().ends_with("/person"));
}

#[test]
fn another_host_is_reached_as_told() {
    let browser = Browser::with(&["--host-resolver-rules=MAP backups.example 127.0.0.1"]);
    browser.go(&format!("http://backups.example:{}/good", pages().port()));
    assert_eq!(browser.text("h1"), "Backups");
}

#[test]
fn nothing_is_left_behind() {
    let (processes, home) = {
        let browser = at("/good");
        (browser.processes(), browser.home().to_owned())
    };
    assert!(processes.len() > 4, "{processes:?}");
    assert_gone(&processes);
    assert!(!home.exists());

    let mut processes = Vec::new();
    noticed(|| {
        let browser = at("/good");
        processes = browser.processes();
        panic!("a test fails {}", browser.url());
    });
    assert_gone(&processes);
}

fn assert_gone(processes: &[i32]) {
    for pid in processes {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "left: {stat}");
    }
}

#[test]
fn only_a_few_browsers_live_at_once() {
    static LIVING: AtomicUsize = AtomicUsize::new(0);
    let mut threads = Vec::new();
    for _ in 0..3 * TURNS {
        threads.push(std::thread::spawn(|| {
            let _turn = Turn::take();
            let _second = Turn::take();
            assert!(LIVING.fetch_add(1, Ordering::SeqCst) < TURNS);
            std::thread::sleep(Duration::from_millis(20));
            LIVING.fetch_sub(1, Ordering::SeqCst);
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

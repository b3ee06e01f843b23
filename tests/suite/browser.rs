//! A real Chromium, what a person does and sees with it, and what it complains of.
//!
//! `what` is a CSS selector, or an XPath if it begins with `/`, and means the first element found. Whoever acts on an element
//! or reads it waits until it is there. Complaints of the console fail the test at the latest when the browser is dropped.

mod console;
mod driver;
mod seeing;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::error::{CmdError, ErrorStatus};
use fantoccini::key::Key;
use fantoccini::wd::{WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use console::{Console, Entry};
use driver::Driver;

use crate::patience::PATIENCE;
pub use driver::{TURNS, Turn};

const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/node_modules/axe-core/axe.min.js");

/// A browser with an empty profile.
pub struct Browser {
    client: Client,
    runtime: Runtime,
    console: RefCell<Console>,
    media: RefCell<BTreeMap<String, String>>,
    patience: Cell<Duration>,
    driver: Driver,
    _turn: Rc<Turn>,
}

/// A tab of a browser.
pub type Tab = WindowHandle;

/// Starting one.
impl Browser {
    pub fn start() -> Self {
        Self::begin(true, &[])
    }

    pub fn without_javascript(args: &[&str]) -> Self {
        Self::begin(false, args)
    }

    /// With arguments of Chromium's, such as `--host-resolver-rules=MAP backups.example 127.0.0.1`.
    pub fn with(args: &[&str]) -> Self {
        Self::begin(true, args)
    }

    fn begin(javascript: bool, more: &[&str]) -> Self {
        let turn = Turn::take();
        let driver = Driver::start();
        let profile = format!("--user-data-dir={}", driver.home().join("profile").display());
        // The browser ends when its pipe to the driver does. CI runs as root, and gives little shared memory.
        let mut args = vec!["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile];
        args.extend(["--remote-debugging-pipe", "--no-first-run", "--no-proxy-server", "--disable-quic"]);
        args.extend(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        args.extend(["--lang=en-US", "--window-size=1280,900"]);
        args.extend(more);
        let mut preferences = json!({ "download.default_directory": driver.home().join("downloads") });
        if !javascript {
            preferences["profile.managed_default_content_settings.javascript"] = json!(2);
        }
        let wanted = json!({
            "goog:chromeOptions": { "args": args, "prefs": preferences },
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "pageLoad": 60_000, "script": 60_000, "implicit": 0 },
        });
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(wanted.as_object().unwrap().clone());
        let client = runtime.block_on(builder.connect(driver.address()));
        let client = client.unwrap_or_else(|error| panic!("no browser, `scripts/setup test` installs it: {error}"));
        let (console, media, patience) = (RefCell::default(), RefCell::default(), Cell::new(PATIENCE));
        Self { client, runtime, console, media, patience, driver, _turn: turn }
    }

    /// The numbers of all processes that belong to it.
    pub fn processes(&self) -> Vec<i32> {
        self.driver.family()
    }

    /// Where everything lies that it writes.
    pub fn home(&self) -> &Path {
        self.driver.home()
    }
}

/// What a person does.
impl Browser {
    #[track_caller]
    pub fn go(&self, url: &str) {
        self.must(self.client.goto(url));
    }

    #[track_caller]
    pub fn reload(&self) {
        self.must(self.client.refresh());
    }

    #[track_caller]
    pub fn back(&self) {
        self.must(self.client.back());
    }

    #[track_caller]
    pub fn click(&self, what: &str) {
        self.on(what, async |element| element.click().await);
    }

    /// The button, link or label that says exactly this.
    #[track_caller]
    pub fn click_on(&self, words: &str) {
        let kind = "self::button or self::a or self::label or self::summary";
        self.click(&format!("//*[({kind}) and normalize-space()=\"{words}\"]"));
    }

    /// Types into a field, in place of what is there.
    #[track_caller]
    pub fn fill(&self, what: &str, text: &str) {
        self.on(what, async |element| {
            element.clear().await?;
            element.send_keys(text).await
        });
    }

    /// Presses keys where the focus is: `Tab`, `Shift+Tab`, `Enter`, `Escape`, `a`.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let keys: Vec<char> = keys.split('+').map(key).collect();
        let mut actions = KeyActions::new("keyboard".to_owned());
        for value in &keys {
            actions = actions.then(KeyAction::Down { value: *value });
        }
        for value in keys.iter().rev() {
            actions = actions.then(KeyAction::Up { value: *value });
        }
        self.must(self.client.perform_actions(actions));
    }

    /// Opens a tab and goes there; `set_media` and `phone` are for each tab.
    #[track_caller]
    pub fn new_tab(&self) -> Tab {
        let tab = self.must(self.client.new_window(true)).handle;
        self.switch(&tab);
        tab
    }

    /// The tab one is in.
    #[track_caller]
    pub fn tab(&self) -> Tab {
        self.must(self.client.window())
    }

    #[track_caller]
    pub fn switch(&self, tab: &Tab) {
        self.must(self.client.switch_to_window(tab.clone()));
    }

    /// Takes all cookies away, as if the session had run out.
    #[track_caller]
    pub fn forget_cookies(&self) {
        self.must(self.client.delete_all_cookies());
    }

    /// From now on this media feature has this value: `prefers-color-scheme` `dark`, `prefers-reduced-motion` `reduce`.
    #[track_caller]
    pub fn set_media(&self, feature: &str, value: &str) {
        self.media.borrow_mut().insert(feature.to_owned(), value.to_owned());
        let features: Vec<_> =
            self.media.borrow().iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// From now on the page is on a phone, of 375 by 812 points and with a touch screen.
    #[track_caller]
    pub fn phone(&self) {
        let size = json!({ "width": 375, "height": 812, "deviceScaleFactor": 2, "mobile": true });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
        self.devtools("Emulation.setTouchEmulationEnabled", json!({ "enabled": true }));
    }
}

/// What must hold.
impl Browser {
    /// The console will tell of exactly one answer of this status.
    pub fn expect_status(&self, status: u16) {
        self.console.borrow_mut().expect_status(status);
    }

    /// The console will have exactly one entry with these words.
    pub fn expect_message(&self, words: &str) {
        self.console.borrow_mut().expect_message(words);
    }

    /// How long anything may take: less for who knows that it never comes.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// The console told of all that was expected, and complained of nothing else.
    #[track_caller]
    pub fn assert_quiet(&self) {
        let begun = Instant::now();
        loop {
            let heard = self.must(self.hear());
            let mut console = self.console.borrow_mut();
            console.hear(heard);
            let Some(awaited) = console.still_awaited() else { break };
            drop(console);
            if begun.elapsed() > self.patience.get() {
                self.give_up(&format!("the console never told of {awaited}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if !self.console.borrow().complaints().is_empty() {
            self.give_up("the console is not quiet");
        }
    }

    /// Until the console complains of what wasn't expected, which it may do some time later.
    #[track_caller]
    pub fn await_complaint(&self) {
        let begun = Instant::now();
        loop {
            let heard = self.must(self.hear());
            let mut console = self.console.borrow_mut();
            console.hear(heard);
            console.still_awaited();
            if !console.complaints().is_empty() {
                return;
            }
            drop(console);
            if begun.elapsed() > self.patience.get() {
                self.give_up("the console never complained");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// axe finds nothing against WCAG 2.2 AA and good practice in the page as it is now.
    #[track_caller]
    pub fn assert_accessible(&self) {
        let axe = std::fs::read_to_string(AXE);
        self.script(&axe.unwrap_or_else(|error| panic!("{AXE}, `scripts/setup test` installs it: {error}")));
        let run = "const [tags, done] = arguments; \
            axe.run(document, { runOnly: tags }).then(found => done(found.violations), error => done(String(error)))";
        let tags = json!(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]);
        let found = self.must(self.client.execute_async(run, vec![tags]));
        let Some(violations) = found.as_array() else { self.give_up(&format!("axe failed: {found}")) };
        let mut told = String::new();
        for violation in violations {
            told += &format!("{} ({}): {}\n", violation["id"], violation["impact"], violation["help"]);
            for node in violation["nodes"].as_array().unwrap() {
                told += &format!("  {}\n  {}\n", node["html"], node["failureSummary"]);
            }
        }
        if !told.is_empty() {
            self.give_up(&format!("axe finds:\n{told}"));
        }
    }

    /// What a script returns, as JSON. It runs also where the page may run none.
    #[track_caller]
    pub fn script(&self, script: &str) -> Value {
        self.must(self.client.execute(script, Vec::new()))
    }
}

impl Browser {
    #[track_caller]
    fn must<T>(&self, done: impl Future<Output = Result<T, CmdError>>) -> T {
        self.runtime.block_on(done).unwrap_or_else(|error| self.give_up(&error.to_string()))
    }

    /// Does it with the first element found, as soon as that is there and can be used.
    #[track_caller]
    fn on<T>(&self, what: &str, act: impl AsyncFn(Element) -> Result<T, CmdError>) -> T {
        self.patiently(what, async || act(self.client.find(locator(what)).await?).await)
    }

    /// Again and again while the page is changing.
    #[track_caller]
    fn patiently<T>(&self, what: &str, act: impl AsyncFn() -> Result<T, CmdError>) -> T {
        let begun = Instant::now();
        loop {
            match self.runtime.block_on(act()) {
                Ok(done) => return done,
                Err(error) if not_yet(&error) && begun.elapsed() < self.patience.get() => {}
                Err(error) => self.give_up(&format!("{what}: {error}")),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A command of the protocol by which Chromium's own tools speak to it.
    #[track_caller]
    fn devtools(&self, command: &str, arguments: Value) -> Value {
        let body = Some(json!({ "cmd": command, "params": arguments }));
        self.must(self.client.issue_cmd(Command { path: "goog/cdp/execute", body }))
    }

    async fn hear(&self) -> Result<Vec<Entry>, CmdError> {
        let command = Command { path: "se/log", body: Some(json!({ "type": "browser" })) };
        Ok(serde_json::from_value(self.client.issue_cmd(command).await?)?)
    }

    /// Fails, and tells where one is.
    #[track_caller]
    fn give_up(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.last_look());
    }

    fn last_look(&self) -> String {
        let look = async {
            let url = self.client.current_url().await?;
            let text = self.client.execute("return document.body.innerText", Vec::new()).await?;
            let heard = self.hear().await?;
            self.console.borrow_mut().hear(heard);
            Ok::<_, CmdError>(format!("at {url}\n{}", text.as_str().unwrap_or("no page")))
        };
        let look = self.runtime.block_on(look).unwrap_or_else(|error| format!("no page: {error}"));
        format!("{look}\nconsole:\n{}", self.console.borrow().complaints())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.last_look());
        } else {
            self.assert_quiet();
        }
    }
}

fn locator(what: &str) -> Locator<'_> {
    if what.starts_with('/') { Locator::XPath(what) } else { Locator::Css(what) }
}

/// The page is still changing.
fn not_yet(error: &CmdError) -> bool {
    match error {
        CmdError::Standard(it) => match it.error {
            ErrorStatus::NoSuchElement | ErrorStatus::StaleElementReference => true,
            ErrorStatus::ElementNotInteractable | ErrorStatus::ElementClickIntercepted => true,
            // What it says of an element that went between two of its own steps.
            ErrorStatus::UnknownError => it.message.contains("does not belong to the document"),
            _ => false,
        },
        CmdError::NotW3C(said) => said == "aborted by navigation",
        _ => false,
    }
}

fn key(name: &str) -> char {
    match name {
        "Tab" => Key::Tab.into(),
        "Shift" => Key::Shift.into(),
        "Enter" => Key::Enter.into(),
        "Escape" => Key::Escape.into(),
        "Space" => ' ',
        "Up" => Key::Up.into(),
        "Down" => Key::Down.into(),
        _ => name.chars().next().unwrap(),
    }
}

/// A command that fantoccini has no method for.
#[derive(Debug)]
struct Command {
    path: &'static str,
    /// None for one that only reads.
    body: Option<Value>,
}

impl WebDriverCompatibleCommand for Command {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        match &self.body {
            None => (http::Method::GET, None),
            Some(body) => (http::Method::POST, Some(body.to_string())),
        }
    }
}

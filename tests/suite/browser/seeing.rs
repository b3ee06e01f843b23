//! What a person sees of a page, and how long they wait for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Browser, Command, locator};

impl Browser {
    #[track_caller]
    pub fn url(&self) -> String {
        self.must(self.client.current_url()).into()
    }

    #[track_caller]
    pub fn title(&self) -> String {
        self.must(self.client.title())
    }

    /// As it is rendered.
    #[track_caller]
    pub fn text(&self, what: &str) -> String {
        self.on(what, async |element| element.text().await)
    }

    #[track_caller]
    pub fn attribute(&self, what: &str, name: &str) -> Option<String> {
        self.on(what, async |element| element.attr(name).await)
    }

    /// As it is now, such as the `value` of a field or `checked`.
    #[track_caller]
    pub fn property(&self, what: &str, name: &str) -> Option<String> {
        self.on(what, async |element| element.prop(name).await)
    }

    /// How many there are, shown or not.
    #[track_caller]
    pub fn count(&self, what: &str) -> usize {
        self.patiently(what, async || Ok(self.client.find_all(locator(what)).await?.len()))
    }

    /// Whether one of them is shown.
    #[track_caller]
    pub fn is_shown(&self, what: &str) -> bool {
        self.patiently(what, async || {
            for element in self.client.find_all(locator(what)).await? {
                if element.is_displayed().await? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Whether the focus is on the first of them.
    #[track_caller]
    pub fn has_focus(&self, what: &str) -> bool {
        let focused = self.must(self.client.active_element()).element_id();
        self.on(what, async |element| Ok(element.element_id() == focused))
    }

    #[track_caller]
    pub fn wait_until(&self, what_holds: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            if begun.elapsed() > self.patience.get() {
                self.give_up(&format!("it never came to hold: {what_holds}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Until one of them is shown.
    #[track_caller]
    pub fn wait_for(&self, what: &str) {
        self.wait_until(&format!("{what} is shown"), || self.is_shown(what));
    }

    /// Until none of them is shown.
    #[track_caller]
    pub fn wait_gone(&self, what: &str) {
        self.wait_until(&format!("{what} is gone"), || !self.is_shown(what));
    }

    #[track_caller]
    pub fn wait_text(&self, what: &str, words: &str) {
        self.wait_until(&format!("{what} says {words:?}"), || self.text(what).contains(words));
    }

    /// The cookies that the page's address would be sent, with `name`, `value`, `httpOnly`, `sameSite`, `secure`.
    #[track_caller]
    pub fn cookies(&self) -> Vec<Value> {
        let cookies = self.must(self.client.issue_cmd(Command { path: "cookie", body: None }));
        cookies.as_array().unwrap().clone()
    }

    /// The file that was downloaded under this name. Until it is whole it has another.
    #[track_caller]
    pub fn downloaded(&self, name: &str) -> PathBuf {
        let path = self.home().join("downloads").join(name);
        self.wait_until(&format!("{name} is downloaded"), || path.exists());
        path
    }

    /// The whole page as a PNG file.
    #[track_caller]
    pub fn screenshot(&self, path: &Path) {
        use base64::Engine;
        let size = self.devtools("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        let wanted = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.devtools("Page.captureScreenshot", wanted)["data"].as_str().unwrap().to_owned();
        std::fs::write(path, base64::engine::general_purpose::STANDARD.decode(picture).unwrap()).unwrap();
    }
}

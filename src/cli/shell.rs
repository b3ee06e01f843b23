//! `completions` and `man`: what shells and `man` want to know of the command line, made from the command line itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::json;

use super::output::Output;
use super::{Cli, NAME};
use crate::app;

/// Everybody may read a manual.
const PUBLIC: u32 = 0o644;

/// What completes commands and options, but for those that nobody calls by hand.
pub(super) fn completions(shell: Shell, out: &Output) -> anyhow::Result<()> {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|inner| !inner.is_hide_set());
    let mut command = Command::new(NAME).args(whole.get_arguments()).subcommands(shown).version(app::version());
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, NAME, &mut script);
    // Where a name has a hyphen, clap_complete's bash looks for its commands under another name than it gives them.
    let script = String::from_utf8(script)?.replace("attendance__subcmd__backup", "attendance__backup");
    out.done(script.trim_end(), &json!({ "shell": shell.to_string(), "script": script }))
}

/// The page of the program on standard output, or a page for each command in a folder.
pub(super) fn manual(directory: Option<&Path>, out: &Output) -> anyhow::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // What each is called in full, and what it takes of the program's own options.
    command.build();
    match directory {
        Some(directory) => pages(&command, directory),
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            let page = String::from_utf8(page)?;
            out.done(page.trim_end(), &json!({ "page": page }))
        }
    }
}

fn pages(command: &Command, directory: &Path) -> anyhow::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages(inner, directory)?;
    }
    let page = Man::new(command.clone());
    let path = directory.join(page.get_filename());
    let write = || {
        let mut text = Vec::new();
        page.render(&mut text)?;
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(PUBLIC))
    };
    write().with_context(|| {
        format!("cannot write {}; name a folder that exists and that you may write in", path.display())
    })
}

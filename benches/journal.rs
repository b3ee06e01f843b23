//! A database rebuilt from its journal and made durable, as `scripts/bench_journal` times it beside `litestream restore`:
//! `journal FOLDER TARGET`.

use std::fs::File;
use std::path::Path;

use attendance_backup::journal::{Index, chain, rebuild};
use attendance_backup::sqlite::Control;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, target] = arguments.as_slice() else {
        return Err("journal FOLDER TARGET (scripts/bench_journal runs it)".into());
    };
    let (folder, target) = (Path::new(folder), Path::new(target));
    let chain = chain::plan(&Index::scan(folder)?, u64::MAX).ok_or("there is nothing to rebuild")?;
    let file = File::options().read(true).write(true).create_new(true).open(target)?;
    rebuild::rebuild(folder, &chain, (&file, target), &Control::default())?;
    Ok(file.sync_all()?)
}

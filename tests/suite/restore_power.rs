//! The power goes in the midst of a restore: what was on the disk by then is put right by whoever comes next, old or new,
//! and every backup that was there is whole [P1, P6, P7].

use crate::disk_full::run_in_namespace;
use crate::harness::{Place, thoroughness};
use crate::inject::{Spot, signal, spots};
use crate::power::Disk;
use crate::restore_faults::live_files;
use crate::restore_scene::{Past, RESTORE, identities, live_spots};
use crate::scene::Context;
use crate::tried::Tried;

/// The points that matter most, or all when there is time.
fn cuts(modes: [&str; 2]) -> Vec<(Spot, usize)> {
    if thoroughness() >= 2 {
        let step = if thoroughness() >= 10 { 1 } else { 5 };
        let all = spots(&[]).into_iter().chain(live_spots());
        return all.flat_map(|spot| (1..80).step_by(step).map(move |n| (spot.clone(), n))).collect();
    }
    let [first, log, last, other] = live_files(modes).try_into().unwrap();
    let syncs =
        if modes[0] == "wal" { [(&log, 2), (&other, 2), (&last, 1)] } else { [(&first, 1), (&last, 1), (&log, 3)] };
    let syncs = syncs.map(|(file, n)| (Spot::on("fsync", file), n));
    let others = [(Spot::on("unlink", "restore.json"), 1), (Spot::on("pwrite64", &log), 6)];
    syncs.into_iter().chain(others).collect()
}

#[test]
fn a_restore_whose_power_is_cut_faults_nothing() {
    let test = "restore_power::a_restore_whose_power_is_cut_faults_nothing";
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        let said = run_in_namespace(test);
        said.lines().filter(|line| line.contains("power")).for_each(|line| println!("{line}"));
        return;
    }
    for modes in [["wal", "wal"], ["delete", "delete"]] {
        let Some(disk) = Disk::new() else {
            return println!("skipped, no power is cut: an image can't be mounted here (mount -o loop)");
        };
        let past = Past::at(Place::in_dir(tempfile::tempdir_in(disk.mounted()).unwrap()), modes);
        let place = &past.scene.place;
        let before = identities(place);
        disk.swap("live");
        disk.copy("live", "before");
        let (mut seen, mut through) = ([0, 0], None);
        for (spot, n) in cuts(modes) {
            if through.as_ref() == Some(&spot.to_string()) {
                continue;
            }
            let context = Context(format!("{modes:?}, power cut at {spot} {n}"));
            disk.copy("before", "running");
            disk.swap("running");
            let Some((mut child, pid)) = place.stopped(&spot, n, &RESTORE) else {
                through = Some(spot.to_string());
                continue;
            };
            disk.copy("running", "cut");
            signal(&pid, "-KILL");
            child.wait().unwrap();
            disk.swap("cut");
            place.ok(&["create"]);
            seen[usize::from(past.assert_settled(place, &before, None))] += 1;
            drop(context);
        }
        println!("restore over {modes:?}, power cut: old, new: {seen:?}");
        Tried::of(seen[0] + seen[1], seen[1], 0).report(&format!("restore over {modes:?}"), "power cut");
        assert!(seen[0] > 0 && seen[1] > 0);
        disk.swap("live");
    }
}

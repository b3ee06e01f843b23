//! The kernel ends the program for want of RAM, in a control group that may have little: what was begun is put right by whoever comes next
//! [P1, P5, P6], and little is enough for a large database [P11].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::faults::Change;
use crate::faults_tried::a_create;
use crate::harness::{PROGRAM, Place, Run, thoroughness};
use crate::replica_scene::{PULL, PUSH, another, comes_whole, empty_machine, with_replica, with_two_there};
use crate::restore_scene::{Past, RESTORE};
use crate::scene::Context;
use crate::stores::Store;
use crate::tried::Tried;

/// A control group of its own (cgroups(7)), of the first version or the second.
struct Group {
    folder: PathBuf,
    /// What the limit is called, and what tells how often somebody was ended for it.
    limit: &'static str,
    events: &'static str,
}

impl Group {
    /// Nothing where none can be made.
    fn new() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("attendance-backup-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let kinds = [("memory", "memory.limit_in_bytes", "memory.oom_control"), ("", "memory.max", "memory.events")];
        let group = kinds.into_iter().find_map(|(controller, limit, events)| {
            let folder = Path::new("/sys/fs/cgroup").join(controller).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let group = Self { folder, limit, events };
            group.folder.join(limit).exists().then_some(group)
        });
        if group.is_none() {
            println!("skipped, nobody is ended: no control group can be made here");
        }
        group
    }

    /// The program, which may have so many kilobytes together with what the kernel keeps for it.
    fn run(&self, place: &Place, kilobytes: usize, args: &[&str]) -> Run {
        // What the one before has left in the page cache counts as well.
        let _ = std::fs::write(self.folder.join("memory.force_empty"), "1");
        std::fs::write(self.folder.join(self.limit), format!("{}", kilobytes << 10)).unwrap();
        let mut command = place.command_of("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        Run::of(command.arg(PROGRAM).args(args).output().unwrap())
    }

    /// How often the kernel has ended somebody in it.
    fn ended(&self) -> u64 {
        let text = std::fs::read_to_string(self.folder.join(self.events)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("a kernel that counts").parse().unwrap()
    }

    /// From far too little to enough: ended again and again, and put right each time. `settles` says whether the operation was done.
    fn starves(&self, name: &str, fresh: impl Fn() -> Rc<Place>, args: &[&str], settles: impl Fn(&Place) -> bool) {
        let (mut tried, mut kilobytes) = (Tried::default(), 3_000);
        loop {
            let (place, before) = (fresh(), self.ended());
            let run = self.run(&place, kilobytes, args);
            let context = Context(format!("{name} with {kilobytes} kB: {}", run.stderr));
            if run.code == 0 {
                break;
            }
            // What can be asked for and isn't there is refused in words.
            assert!(run.code == 1 || self.ended() > before, "it ended with {} by itself", run.code);
            assert!(!run.stderr.contains("panicked"));
            tried.count(settles(&place), run.code == 1);
            drop(context);
            kilobytes += if thoroughness() >= 2 { 40 } else { 600 };
        }
        println!("{name}: ended by the kernel {tried:?}, {kilobytes} kB do");
        assert!(tried.points >= 3 && tried.points > tried.refused, "{name}: {tried:?}");
        tried.report(name, "OOM");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = Command::new("rmdir").arg(&self.folder).status();
    }
}

#[test]
fn what_the_kernel_ends_is_put_right() {
    let Some(group) = Group::new() else { return };
    let create = a_create();
    group.starves(
        "create",
        || Rc::new(create.place.twin()),
        &create.args,
        |place| create.recovers(place, "by the kernel"),
    );
    let past = Past::of(["wal", "delete"]);
    let restored = Change::of(&past.scene.place, &RESTORE);
    group.starves("restore", || Rc::new(past.twin()), &RESTORE, |place| restored.settles(place));
}

#[test]
fn what_the_kernel_ends_on_its_way_elsewhere_is_put_right() {
    let Some(group) = Group::new() else { return };
    let store = Store::folder();
    let place = Rc::new(with_replica(&store));
    another(&place);
    place.ok(&PUSH);
    let fresh = || {
        another(&place);
        Rc::clone(&place)
    };
    let settles = |place: &Place| {
        store.objects.assert_true();
        let done = store.objects.ids().contains(&place.ids()[0]);
        place.ok(&PUSH);
        store.objects.assert_complete(place);
        place.assert_whole();
        done
    };
    group.starves("push", fresh, &PUSH, settles);
    let store = Store::folder();
    let sender = with_two_there(&store);
    let settles = |machine: &Place| {
        let done = machine.backups().join("metadata.json").exists() && machine.ids() == sender.ids();
        comes_whole(machine, &sender, &store);
        done
    };
    group.starves("pull", || Rc::new(empty_machine(&sender, &store)), &PULL, settles);
}

/// The page cache is counted as well, and what is in it can go.
#[test]
fn a_large_database_wants_little_memory_of_a_container() {
    let Some(group) = Group::new() else { return };
    let mut place = Place::new();
    place.keyed();
    place.writes(true, true);
    place.fill(if thoroughness() >= 2 { 1_000 } else { 100 });
    let allowed = 64_000;
    for args in [&["create"][..], &["verify", "--all"], &["drill"]] {
        let run = group.run(&place, allowed, args);
        assert_eq!((run.code, group.ended()), (0, 0), "{args:?}: {}", run.stderr);
    }
    place.sql("attendance", "DELETE FROM blobs; DELETE FROM people");
    let id = place.ids().remove(0);
    for args in [&["preview", &id][..], &["restore", &id, "--confirm", &id, "--force"]] {
        let run = group.run(&place, allowed, args);
        assert_eq!((run.code, group.ended()), (0, 0), "{args:?}: {}", run.stderr);
    }
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
    place.assert_whole();
}

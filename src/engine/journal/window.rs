//! Which instants can be restored: from the first one that the journal reaches to its last tick, but for the gaps.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::backup::{DatabaseName, Moment, timestamp};
use crate::engine::{Engine, Error, locked};
use crate::journal::folder::folder;
use crate::journal::timeline::{Gap, Timeline};
use crate::journal::{self, FOLDER, Index};

/// The instants of each database that can be restored. A database that has none yet isn't there.
pub type Recovery = BTreeMap<DatabaseName, Window>;

/// From when to when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Window {
    /// The first instant.
    #[serde(with = "timestamp")]
    pub from: DateTime<Utc>,
    /// The last one.
    #[serde(with = "timestamp")]
    pub to: DateTime<Utc>,
    /// Spans within it of which nobody knows what the databases held; their ends are known.
    pub gaps: Vec<Gap>,
}

impl Window {
    /// What lies within it of the gaps, those that meet made one. An end that lies in a gap is none: that is the gap's. Nothing where all
    /// of it lies in one.
    pub(in crate::engine) fn of(
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        gaps: impl IntoIterator<Item = Gap>,
    ) -> Option<Self> {
        let mut apart: Vec<_> = gaps.into_iter().filter(|gap| gap.from < gap.to).collect();
        apart.sort_unstable_by_key(|gap| gap.from);
        let mut gaps: Vec<Gap> = Vec::new();
        for gap in apart {
            match gaps.last_mut() {
                Some(last) if gap.from < last.to => *last = last.and(gap),
                _ => gaps.push(gap),
            }
        }
        let holds = |at| gaps.iter().find(|gap| gap.holds(at));
        let (from, to) = (holds(from).map_or(from, |gap| gap.to), holds(to).map_or(to, |gap| gap.from));
        gaps.retain(|gap| from < gap.to && gap.from < to);
        (from <= to).then_some(Self { from, to, gaps })
    }

    /// The instants that all databases have; nothing if there is none.
    pub fn common(recovery: &Recovery) -> Option<Self> {
        let from = recovery.values().map(|window| window.from).max()?;
        let to = recovery.values().map(|window| window.to).min()?;
        let gaps = recovery.values().flat_map(|window| window.gaps.iter().copied());
        Self::of(from, to, gaps)
    }

    /// Why that instant can't be restored of all databases, if it can't; and of which alone, where the others have it.
    pub(in crate::engine) fn assert_all_reach(recovery: &Recovery, moment: Moment) -> Result<(), Error> {
        let found = |(name, window): (&DatabaseName, &Self)| Some((name.clone(), window.assert_reaches(moment).err()?));
        let (names, errors): (Vec<_>, Vec<_>) = recovery.iter().filter_map(found).unzip();
        let reached = match Self::common(recovery) {
            Some(common) => common.assert_reaches(moment),
            None => Err(errors.into_iter().next().unwrap_or(Error::NoJournal)),
        };
        let some = if names.len() < recovery.len() { names } else { Vec::new() };
        reached.map_err(|mut error| {
            if let Error::PointOutside { lacking, .. } | Error::PointInGap { lacking, .. } = &mut error {
                *lacking = some;
            }
            error
        })
    }

    /// Why that instant can't be restored, if it can't.
    pub(in crate::engine) fn assert_reaches(&self, moment: Moment) -> Result<(), Error> {
        let (at, lacking) = (moment.at(), Vec::new());
        let [from, to] = [self.from, self.to].map(Moment::new);
        if at < self.from || at > self.to {
            return Err(Error::PointOutside { moment, from, to, lacking });
        }
        match self.gaps.iter().find(|gap| gap.holds(at)) {
            Some(Gap { from, to, wrong }) => {
                let [before, after] = [*from, *to].map(Moment::new);
                Err(Error::PointInGap { moment, before, after, wrong: *wrong, lacking })
            }
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Which instants can be restored. Nothing where no journal is kept, nor was.
    pub fn recovery(&self) -> Result<Option<Recovery>, Error> {
        self.assert_expected()?;
        if !self.config.pitr.enabled && !self.store.root().join(FOLDER).is_dir() {
            return Ok(None);
        }
        let windows = self.of_journals(window)?;
        Ok(Some(windows.into_iter().filter_map(|(name, window)| Some((name, window?))).collect()))
    }

    /// What follows from what lies in the journal of each database, and from when it was kept. What is captured meanwhile may be
    /// missing in the first, so the second is read before it. Who writes is kept waiting by `look`, which must not ask for an index.
    pub(in crate::engine) fn of_journals<T>(
        &self,
        look: impl Fn(&Index, &Timeline) -> T,
    ) -> Result<BTreeMap<DatabaseName, T>, journal::Error> {
        let root = self.store.root();
        let timeline = Timeline::read(root)?;
        let written = locked(&self.journals).clone();
        let found = |name: &DatabaseName| -> Result<T, journal::Error> {
            let timeline = timeline.clone().of(root, [name])?;
            // Whoever writes it knows it without a look at each file.
            match written.get(name) {
                Some(journal) => Ok(look(&journal.index(), &timeline)),
                None => Ok(look(&Index::scan(&folder(root, name))?, &timeline)),
            }
        };
        self.config.databases.keys().map(|name| Ok((name.clone(), found(name)?))).collect()
    }
}

/// The window of a database, if it has one.
pub(super) fn window(index: &Index, timeline: &Timeline) -> Option<Window> {
    let from = index.oldest()?.at()?;
    // Where no tick is recorded, the last change is the last of which all is known.
    let to = timeline.alive.map(|alive| Moment::new(alive).at()).or_else(|| index.newest()?.at())?;
    // From then on nobody knows, though nobody has recorded that yet.
    let to = timeline.wrong_since.map_or(to, |since| since.min(to));
    Window::of(from, to, timeline.gaps.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u32) -> DateTime<Utc> {
        format!("2026-11-26T09:{minute:02}:00Z").parse().unwrap()
    }

    fn span(from: u32, to: u32) -> Gap {
        Gap::new(at(from), at(to))
    }

    #[test]
    fn gaps_are_cut_to_the_window_and_made_one_where_they_overlap() {
        let wrong = Gap { wrong: true, ..span(24, 30) };
        let window =
            Window::of(at(10), at(50), [span(40, 55), span(5, 12), span(20, 25), wrong, span(32, 33), span(1, 9)]);
        let window = window.unwrap();
        assert_eq!((window.from, window.to), (at(12), at(40)), "in a gap nothing is known");
        assert_eq!(window.gaps, [Gap { wrong: true, ..span(20, 30) }, span(32, 33)]);
        assert_eq!(Window::of(at(10), at(50), [span(5, 59)]), None);
        assert_eq!(Window::of(at(10), at(50), [span(5, 10), span(50, 59)]).unwrap().gaps, []);
    }

    #[test]
    fn what_was_found_wrong_is_not_offered_before_that_is_recorded() {
        let point = |minute| journal::LtxFile {
            name: journal::FileName::snapshot(journal::Txid::FIRST),
            millis: at(minute).timestamp_millis() as u64,
            size: 1,
        };
        let index: Index = [point(5)].into_iter().collect();
        let timeline =
            |since: Option<u32>| Timeline { alive: Some(at(50)), gaps: Vec::new(), wrong_since: since.map(at) };
        let to = |since| window(&index, &timeline(since)).map(|window| window.to);
        assert_eq!(
            [to(None), to(Some(20)), to(Some(55)), to(Some(4))],
            [Some(at(50)), Some(at(20)), Some(at(50)), None]
        );
    }

    #[test]
    fn what_all_databases_have_is_what_can_be_restored() {
        let named = |name: &str, window| (name.parse().unwrap(), window);
        let recovery = Recovery::from([
            named("a", Window::of(at(0), at(50), [span(20, 30)]).unwrap()),
            named("b", Window::of(at(10), at(50), []).unwrap()),
        ]);
        let common = Window::common(&recovery).unwrap();
        assert_eq!(Some(&common), Window::of(at(10), at(50), [span(20, 30)]).as_ref());
        let reaches = |minute| common.assert_reaches(Moment::new(at(minute)));
        for minute in [10, 20, 30, 50] {
            reaches(minute).unwrap();
        }
        for minute in [9, 51] {
            assert!(matches!(reaches(minute), Err(Error::PointOutside { .. })), "{minute}");
        }
        assert!(matches!(reaches(21), Err(Error::PointInGap { .. })));
        assert_eq!(Window::common(&Recovery::new()), None);
    }

    #[test]
    fn who_alone_lacks_an_instant_is_named() {
        let named = |name: &str, window: Window| (name.parse::<DatabaseName>().unwrap(), window);
        let window = |from, to, gaps: &[Gap]| Window::of(at(from), at(to), gaps.iter().copied()).unwrap();
        let told = |recovery: &[(DatabaseName, Window)], minute| {
            let recovery: Recovery = recovery.iter().cloned().collect();
            Window::assert_all_reach(&recovery, Moment::new(at(minute))).map_err(|error| error.to_string())
        };
        let new = named("new", window(20, 50, &[span(30, 40)]));
        let both = [named("old", window(0, 50, &[])), new.clone()];
        for minute in [20, 30, 40, 50] {
            told(&both, minute).unwrap();
        }
        let only =
            "; only `new` can't go back to it: with BACKUP_DATABASES set to the others for that one command these do";
        let outside = told(&both, 10).unwrap_err();
        assert!(outside.contains("reaches from 2026-11-26T09:20:00.000Z to") && outside.ends_with(only), "{outside}");
        let in_gap = told(&both, 35).unwrap_err();
        assert!(in_gap.contains("nothing was recorded after") && in_gap.ends_with(only), "{in_gap}");
        let of_none = told(&both, 51).unwrap_err();
        assert!(of_none.ends_with("or a backup"), "{of_none}");
        // They have no instant in common.
        let apart = [named("old", window(0, 10, &[])), new];
        let told = [5, 15, 25].map(|minute| told(&apart, minute).unwrap_err());
        assert!(told[0].ends_with(only) && told[1].ends_with("or a backup"), "{told:?}");
        assert!(told[2].contains("only `old` can't"), "{told:?}");
        assert!(matches!(Window::assert_all_reach(&Recovery::new(), Moment::new(at(1))), Err(Error::NoJournal)));
    }
}

//! Chance that comes again: all of it follows from one number.

use crate::model_deeds::Wishes;

/// Splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A change of settings, and now and then one that is refused.
pub fn wishes(random: &mut Random, also_bad: bool) -> Wishes {
    let most = [("daily", 1, 4), ("weekly", 0, 3), ("monthly", 0, 3), ("manual", 1, 3), ("pre-restore", 2, 3)];
    let bad = also_bad && random.once_in(8);
    let some = most.iter().filter(|_| random.once_in(2)).copied().collect::<Vec<_>>();
    let number = |(tier, least, most): (&'static str, usize, usize)| (tier, least + random.below(most - least + 1));
    let mut keep: Vec<_> = some.into_iter().map(number).collect();
    if bad {
        keep = vec![("daily", 0)];
    }
    let zones = ["UTC", "Pacific/Kiritimati", "America/St_Johns"];
    let zone = random.once_in(3).then(|| random.of(&zones).parse().unwrap());
    let reset = random.once_in(5) || keep.is_empty() && zone.is_none();
    Wishes { reset, zone, keep }
}

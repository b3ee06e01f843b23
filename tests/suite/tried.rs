//! How many points of a fault were tried on an operation, and how they came out: one line each in the file that `FAULTS_REPORT`
//! names, which `make faults` prints as a table in the end.

use std::io::Write;

/// The points of one fault.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tried {
    pub points: usize,
    /// The operation was done all the same.
    pub new: usize,
    /// The program said that it had failed.
    pub refused: usize,
}

impl Tried {
    pub fn of(points: usize, new: usize, refused: usize) -> Self {
        Self { points, new, refused }
    }

    pub fn count(&mut self, new: bool, refused: bool) {
        self.points += 1;
        self.new += usize::from(new);
        self.refused += usize::from(refused);
    }

    /// The same of an error of a call, and whether it stays (`+`).
    pub fn report_error(self, operation: &str, error: &str) {
        let fault =
            error.strip_suffix('+').map_or_else(|| format!("{error}, once"), |error| format!("{error}, for ever"));
        self.report(operation, &fault);
    }

    /// Tells it, where somebody wants to know.
    pub fn report(self, operation: &str, fault: &str) {
        let Self { points, new, refused } = self;
        let Some(path) = std::env::var_os("FAULTS_REPORT").filter(|_| points > 0) else { return };
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let line = format!("{operation}\t{fault}\t{points}\t{}\t{new}\t{refused}\n", points - new);
        file.write_all(line.as_bytes()).unwrap();
    }
}

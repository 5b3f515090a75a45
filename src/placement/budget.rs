//! How long a solve may go on: a fraction of the budget that is spent, asked by the engines as they work.
//!
//! Engines never look at a clock: who calls them brings one, or counts work, which repeats exactly.

/// A limit on a solve.
pub trait Budget {
    /// Told of `work` more units (a unit is about one proposal of a move); answers which fraction of the
    /// budget is spent: 0 at the start, 1 or more when the engine must end with the best it has.
    fn spend(&mut self, work: u64) -> f64;

    /// Seconds left, if the budget is one of time: for solvers that count nothing else.
    fn seconds_left(&mut self) -> Option<f64> {
        None
    }

    /// Units of work left, if the budget is one of work; else 0.
    fn work_left(&mut self) -> f64 {
        0.0
    }

    /// A budget for one of `threads` that work side by side: `share` of the time that is left, or that share of the
    /// work divided among them. What it is spent on is told to this one by the caller, afterwards.
    fn for_thread(&mut self, share: f64, threads: usize) -> Box<dyn Budget + Send>;
}

/// A limit on work alone: the same in every run.
#[derive(Debug, Clone, Copy)]
pub struct WorkBudget {
    /// Units allowed.
    pub limit: u64,
    /// Units spent.
    pub spent: u64,
}

impl WorkBudget {
    /// Allows `limit` units.
    pub fn new(limit: u64) -> Self {
        Self { limit, spent: 0 }
    }
}

impl Budget for WorkBudget {
    fn spend(&mut self, work: u64) -> f64 {
        self.spent = self.spent.saturating_add(work);
        self.spent as f64 / self.limit.max(1) as f64
    }

    fn work_left(&mut self) -> f64 {
        self.limit.saturating_sub(self.spent) as f64
    }

    fn for_thread(&mut self, share: f64, threads: usize) -> Box<dyn Budget + Send> {
        Box::new(Self::new((self.work_left() * share / threads.max(1) as f64) as u64))
    }
}

/// A part of another budget, for one phase of an engine: its own 0 to 1.
pub struct Part<'a> {
    whole: &'a mut dyn Budget,
    start: f64,
    share: f64,
}

impl<'a> Part<'a> {
    /// `share` of what is left of `whole`.
    pub fn new(whole: &'a mut dyn Budget, share: f64) -> Self {
        let start = whole.spend(0);
        let share = ((1.0 - start) * share).max(1e-9);
        Self { whole, start, share }
    }

    /// Which share of what is left of the whole is left of this part.
    fn left(&mut self) -> f64 {
        let whole = self.whole.spend(0);
        ((self.start + self.share - whole) / (1.0 - whole).max(1e-9)).clamp(0.0, 1.0)
    }
}

impl Budget for Part<'_> {
    fn spend(&mut self, work: u64) -> f64 {
        let whole = self.whole.spend(work);
        // A whole that was stopped stays at 1: a part that begins there has ended too.
        if whole >= 1.0 {
            f64::max(1.0, (whole - self.start) / self.share)
        } else {
            (whole - self.start) / self.share
        }
    }

    fn seconds_left(&mut self) -> Option<f64> {
        let left = self.left();
        self.whole.seconds_left().map(|seconds| seconds * left)
    }

    fn work_left(&mut self) -> f64 {
        self.left() * self.whole.work_left()
    }

    fn for_thread(&mut self, share: f64, threads: usize) -> Box<dyn Budget + Send> {
        let left = self.left();
        self.whole.for_thread(left * share, threads)
    }
}

/// Ends when either of two budgets does.
pub struct Both<'a> {
    /// One.
    pub part: &'a mut dyn Budget,
    /// The other.
    pub own: WorkBudget,
}

impl Budget for Both<'_> {
    fn spend(&mut self, work: u64) -> f64 {
        self.part.spend(work).max(self.own.spend(work))
    }

    fn seconds_left(&mut self) -> Option<f64> {
        self.part.seconds_left()
    }

    fn for_thread(&mut self, share: f64, threads: usize) -> Box<dyn Budget + Send> {
        self.part.for_thread(share, threads)
    }
}

//! One balance dimension of the dual: what its worst deviation costs at the least, given prices.
//!
//! For counts the deviation is on a ladder of rounding levels: either it stays on the lowest level, and then
//! every node's count is one of a few whole numbers, or it costs at least the next level. Both cases are
//! bounded; the smaller one is the row's bound.

/// A dimension over the balanced nodes.
#[derive(Debug, Clone)]
pub struct Row {
    /// Cost of a deviation of 1.
    pub weight: f64,
    /// Nodes.
    pub nodes: Vec<u32>,
    /// Their fair shares, all above 0.
    pub fair: Vec<f64>,
    /// Least possible deviation.
    pub floor: f64,
    /// Deviations up to this cost nothing.
    pub tolerance: f64,
    /// The next level, and the ranges that stand below it; none for a dimension that is not a count.
    ladder: Option<(f64, Vec<(f64, f64)>)>,
}

/// Where the row's bound is attained: which load it would like on every node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The bound.
    pub value: f64,
    /// On the lowest rounding level.
    pub level: bool,
    /// The deviation that the row would have.
    pub off: f64,
}

impl Row {
    /// A dimension of whole numbers; `closed` if they add up to the fair shares' sum in every placement, so
    /// that some node is above a fractional share and some node below it.
    pub fn counts(weight: f64, nodes: &[u32], closed: bool, fair: impl Fn(u32) -> f64) -> Self {
        let mut row = Self::amounts(weight, nodes, fair, 0.0);
        let Some(&first) = row.fair.first() else { return row };
        let equal = closed && row.fair.iter().all(|&fair| fair == first);
        let part = |fair: f64| {
            let (up, down) = (fair.ceil() - fair, fair - fair.floor());
            (if equal { up.max(down) } else { up.min(down) }) / fair
        };
        let floor = row.fair.iter().map(|&fair| part(fair)).fold(0.0, f64::max);
        let range = |&fair: &f64| {
            let low = (fair * (1.0 - floor) - 1e-7).ceil();
            (low, (fair * (1.0 + floor) + 1e-7).floor())
        };
        let ranges: Vec<(f64, f64)> = row.fair.iter().map(range).collect();
        let next = |(&fair, &(low, high)): (&f64, &(f64, f64))| {
            ((high + 1.0 - fair) / fair).min((fair - (low - 1.0)) / fair)
        };
        let next = row.fair.iter().zip(&ranges).map(next).fold(f64::INFINITY, f64::min);
        row.floor = floor;
        row.ladder = Some((next, ranges));
        row
    }

    /// A dimension of any amounts.
    pub fn amounts(weight: f64, nodes: &[u32], fair: impl Fn(u32) -> f64, floor: f64) -> Self {
        let nodes: Vec<u32> = nodes.iter().copied().filter(|&n| fair(n) > 0.0).collect();
        let fair = nodes.iter().map(|&n| fair(n)).collect();
        Self { weight, nodes, fair, floor, tolerance: 0.0, ladder: None }
    }

    /// The same, with deviations up to `tolerance` for nothing.
    pub fn tolerating(self, tolerance: f64) -> Self {
        Self { tolerance, ..self }
    }

    /// What a deviation costs.
    pub fn cost(&self, off: f64) -> f64 {
        self.weight * (off - self.tolerance).max(0.0)
    }

    /// The loads of the `at`-th node that stand on the lowest rounding level.
    pub fn range(&self, at: usize) -> (f64, f64) {
        match &self.ladder {
            Some((_, ranges)) => ranges[at],
            None => (self.fair[at], self.fair[at]),
        }
    }

    /// The row's least cost under `prices`, less what the prices are paid for the fair load.
    pub fn bound(&self, prices: &[f64]) -> Case {
        let next = self.ladder.as_ref().map_or(self.floor, |(next, _)| *next);
        let beyond = self.beyond(prices, next);
        match self.lowest(prices) {
            Some(level) if level.value <= beyond.value => level,
            _ => beyond,
        }
    }

    /// The next rounding level's deviation; none for a dimension that is not a count.
    pub fn next(&self) -> Option<f64> {
        self.ladder.as_ref().map(|(next, _)| *next)
    }

    /// As [`Row::bound`], on the lowest rounding level.
    pub fn lowest(&self, prices: &[f64]) -> Option<Case> {
        let (_, ranges) = self.ladder.as_ref()?;
        let mut value = self.cost(self.floor);
        for (&node, range) in self.nodes.iter().zip(ranges) {
            let price = prices[node as usize];
            value -= (price * range.0).max(price * range.1);
        }
        Some(Case { value, level: true, off: self.floor })
    }

    /// As [`Row::bound`], with a deviation of at least `off`.
    pub fn beyond(&self, prices: &[f64], off: f64) -> Case {
        let (mut paid, mut norm) = (0.0, 0.0);
        for (&node, &fair) in self.nodes.iter().zip(&self.fair) {
            let price = prices[node as usize];
            paid += price * fair;
            norm += price.abs() * fair;
        }
        // Prices beyond the ball let the deviation grow without end in the relaxation; they are projected
        // before, so what is left is rounding.
        let slack = self.weight - norm;
        let within = slack >= -1e-9 * self.weight.max(1.0);
        // Up to the tolerance a deviation is paid for by prices and costs nothing.
        let off = off.max(self.tolerance);
        let value = off * slack - self.weight * self.tolerance - paid;
        let value = if within { value } else { f64::NEG_INFINITY };
        Case { value, level: false, off }
    }

    /// The ascent direction in relative units: how far `load` is above what the row would have on each node.
    pub fn slopes(&self, case: Case, prices: &[f64], load: &[f64], into: &mut [f64]) {
        for (at, (&node, &fair)) in self.nodes.iter().zip(&self.fair).enumerate() {
            let (price, load) = (prices[node as usize], load[node as usize]);
            let (low, high) = match (&self.ladder, case.level) {
                (Some((_, ranges)), true) => ranges[at],
                _ => (fair * (1.0 - case.off), fair * (1.0 + case.off)),
            };
            let aim = if price > 0.0 {
                high
            } else if price < 0.0 {
                low
            } else {
                load.clamp(low, high)
            };
            into[node as usize] = (load - aim) / fair;
        }
    }

    /// Brings prices back into the ball where the relaxation is bounded.
    pub fn project(&self, prices: &mut [f64]) {
        let mut amounts: Vec<f64> =
            self.nodes.iter().zip(&self.fair).map(|(&n, &fair)| prices[n as usize].abs() * fair).collect();
        let norm: f64 = amounts.iter().sum();
        if norm <= self.weight {
            return;
        }
        amounts.sort_unstable_by(|a, b| b.total_cmp(a));
        let (mut sum, mut cut) = (0.0, 0.0);
        for (at, &amount) in amounts.iter().enumerate() {
            sum += amount;
            let next = (sum - self.weight) / (at + 1) as f64;
            if next >= amount {
                break;
            }
            cut = next;
        }
        for (&node, &fair) in self.nodes.iter().zip(&self.fair) {
            let price = &mut prices[node as usize];
            *price = price.signum() * (price.abs() * fair - cut).max(0.0) / fair;
        }
    }
}

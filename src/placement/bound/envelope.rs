//! The lower envelope of lines `a + b z` over `z >= 0`: which node is the cheapest for a replica of size `z`.
//!
//! Built in O(n log n), asked in O(log n), or O(1) amortised when asked with growing `z`.

/// One node's price for a replica of size `z`: `base + slope * z`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Price of any replica.
    pub base: f64,
    /// Price of a unit of size.
    pub slope: f64,
    /// Whose price.
    pub node: u32,
}

impl Line {
    /// The price at size `z`.
    #[inline]
    pub fn at(&self, z: f64) -> f64 {
        self.base + self.slope * z
    }
}

/// Lines that are the cheapest somewhere, by falling slope: each from its `from` up to the next one's.
#[derive(Debug, Clone, Default)]
pub struct Envelope {
    lines: Vec<Line>,
    from: Vec<f64>,
}

impl Envelope {
    /// Rebuilds it from `lines`, which it reorders.
    pub fn rebuild(&mut self, lines: &mut [Line]) {
        // Adding 0 turns -0 into 0: the two are equal, yet sort apart.
        lines.iter_mut().for_each(|line| line.slope += 0.0);
        lines.sort_unstable_by(|a, b| {
            b.slope.total_cmp(&a.slope).then(a.base.total_cmp(&b.base)).then(a.node.cmp(&b.node))
        });
        self.lines.clear();
        self.from.clear();
        for &line in lines.iter() {
            if self.lines.last().is_some_and(|last| last.slope == line.slope) {
                continue;
            }
            let mut from = 0.0;
            while let Some(last) = self.lines.last() {
                from = (line.base - last.base) / (last.slope - line.slope);
                if from > self.from[self.from.len() - 1] {
                    break;
                }
                self.lines.pop();
                self.from.pop();
                from = 0.0;
            }
            self.lines.push(line);
            self.from.push(if self.from.is_empty() { 0.0 } else { from });
        }
    }

    /// The cheapest line at `z`; `hint` is where the last smaller `z` was found.
    #[inline]
    pub fn walk(&self, z: f64, hint: &mut usize) -> Option<&Line> {
        while *hint + 1 < self.lines.len() && self.from[*hint + 1] <= z {
            *hint += 1;
        }
        self.lines.get(*hint)
    }

    /// The cheapest line at `z`.
    pub fn lowest(&self, z: f64) -> Option<&Line> {
        let at = self.from.partition_point(|&from| from <= z);
        self.lines.get(at.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_envelope_is_the_minimum(
            lines in prop::collection::vec((-5i32..5, -5i32..5), 1..30),
            sizes in prop::collection::vec(0u32..100, 1..20),
        ) {
            let mut lines: Vec<Line> = lines
                .iter()
                .enumerate()
                .map(|(n, &(base, slope))| Line { base: base.into(), slope: slope.into(), node: n as u32 })
                .collect();
            let mut envelope = Envelope::default();
            envelope.rebuild(&mut lines);
            let mut sizes: Vec<f64> = sizes.iter().map(|&s| f64::from(s) / 10.0).collect();
            sizes.sort_by(f64::total_cmp);
            let mut hint = 0;
            for z in sizes {
                let least = lines.iter().map(|line| line.at(z)).fold(f64::INFINITY, f64::min);
                prop_assert!((envelope.lowest(z).unwrap().at(z) - least).abs() < 1e-9);
                prop_assert!((envelope.walk(z, &mut hint).unwrap().at(z) - least).abs() < 1e-9);
            }
        }
    }
}

//! Where to step next while maximising a concave function of which only values and slopes are known: a proximal
//! bundle method (Kiwiel, "Proximity control in bundle methods for convex nondifferentiable minimization", 1990).
//!
//! The function lies below every one of its tangents ("cuts"). The next step maximises the lowest of them, less
//! the squared length of the step by `reach`. It evaluates nothing itself and knows nothing of placement.

/// Cuts kept at most.
const CUTS_MAX: usize = 160;
/// Exchanges of weight between two cuts at most, for one step.
const EXCHANGES: usize = 600;
/// A step that gains this part of what the cuts promise moves the centre.
const SERIOUS: f64 = 0.1;

/// The tangents known so far, seen from the best point.
#[derive(Debug, Default)]
pub struct Bundle {
    slopes: Vec<Vec<f64>>,
    /// By cut: how far it lies above the function at the centre.
    errors: Vec<f64>,
    /// By cut: its part in the last step.
    weights: Vec<f64>,
    /// Products of the slopes.
    products: Vec<Vec<f64>>,
    /// How far a step goes for a unit of slope.
    reach: f64,
    nulls: u32,
}

/// A step from the centre.
#[derive(Debug, Clone)]
pub struct Step {
    /// By variable.
    pub by: Vec<f64>,
    /// What the cuts promise: no point is higher by more, as far as steps of this length tell.
    pub promise: f64,
}

impl Bundle {
    /// With the slope at the centre; `reach` is how far the first step goes for a unit of slope.
    pub fn new(slope: Vec<f64>, reach: f64) -> Self {
        let mut bundle = Self { reach, ..Self::default() };
        bundle.add(slope, 0.0);
        bundle.weights[0] = 1.0;
        bundle
    }

    /// The next step from the centre.
    pub fn step(&mut self) -> Step {
        self.weigh();
        let by = self.blend().iter().map(|slope| slope * self.reach).collect();
        let error: f64 = self.errors.iter().zip(&self.weights).map(|(error, weight)| error * weight).sum();
        Step { by, promise: error + self.reach * self.length() }
    }

    /// Told what stands where the step led: the function is higher by `gain` and has `slope` there. `by` is the
    /// step as it was made. Answers whether the centre moves there.
    pub fn seen(&mut self, by: &[f64], promise: f64, gain: f64, slope: Vec<f64>) -> bool {
        let back: f64 = slope.iter().zip(by).map(|(slope, by)| slope * by).sum();
        let serious = gain >= SERIOUS * promise && gain > 0.0;
        if serious {
            for (error, slope) in self.errors.iter_mut().zip(&self.slopes) {
                *error += slope.iter().zip(by).map(|(slope, by)| slope * by).sum::<f64>() - gain;
                *error = error.max(0.0);
            }
            self.nulls = 0;
            if gain >= 0.3 * promise {
                self.reach *= 2.0;
            }
            self.add(slope, 0.0);
        } else {
            let error = (gain - back).max(0.0);
            self.nulls += 1;
            // The function bends within the step: a shorter one tells more.
            if error > 20.0 * promise && self.nulls >= 10 {
                self.reach *= 0.7;
                self.nulls = 0;
            }
            self.add(slope, error);
        }
        serious
    }

    /// The sum of the squares of the blended slope.
    fn length(&self) -> f64 {
        let row = |products: &Vec<f64>| -> f64 {
            products.iter().zip(&self.weights).map(|(product, weight)| product * weight).sum()
        };
        self.products.iter().zip(&self.weights).map(|(products, weight)| weight * row(products)).sum()
    }

    fn blend(&self) -> Vec<f64> {
        let mut sum = vec![0.0; self.slopes.first().map_or(0, Vec::len)];
        for (slope, &weight) in self.slopes.iter().zip(&self.weights).filter(|(_, weight)| **weight > 0.0) {
            sum.iter_mut().zip(slope).for_each(|(sum, slope)| *sum += weight * slope);
        }
        sum
    }

    /// Adds a cut; the least used one goes where there are too many, its part taken up by their blend.
    fn add(&mut self, slope: Vec<f64>, error: f64) {
        if self.slopes.len() + 1 >= CUTS_MAX {
            self.compress();
        }
        let product =
            |other: &Vec<f64>| -> f64 { other.iter().zip(&slope).map(|(other, slope)| other * slope).sum() };
        let mut row: Vec<f64> = self.slopes.iter().map(product).collect();
        self.products.iter_mut().zip(&row).for_each(|(products, &product)| products.push(product));
        row.push(product(&slope));
        self.products.push(row);
        self.slopes.push(slope);
        self.errors.push(error);
        self.weights.push(0.0);
    }

    /// Half of the cuts go, those of least weight; the blend of all stands for them.
    fn compress(&mut self) {
        let blend = self.blend();
        let error = self.errors.iter().zip(&self.weights).map(|(error, weight)| error * weight).sum();
        let mut order: Vec<usize> = (0..self.slopes.len()).collect();
        order.sort_by(|&a, &b| {
            let cut = |at: usize| (-self.weights[at], self.errors[at]);
            let ((wa, ea), (wb, eb)) = (cut(a), cut(b));
            wa.total_cmp(&wb).then(ea.total_cmp(&eb)).then(a.cmp(&b))
        });
        let mut kept = order[..CUTS_MAX / 2].to_vec();
        kept.sort_unstable();
        let old = std::mem::take(&mut self.slopes);
        let errors = std::mem::take(&mut self.errors);
        (self.products, self.weights) = (Vec::new(), Vec::new());
        self.add(blend, error);
        self.weights[0] = 1.0;
        for (at, slope) in old.into_iter().enumerate() {
            if kept.binary_search(&at).is_ok() {
                self.add(slope, errors[at]);
            }
        }
    }

    /// The weights of the cuts in the best step: least `reach / 2 * |blend|^2 + error` of the blend, by exchanges of
    /// weight between the cut that asks for the most and the one that asks for the least.
    fn weigh(&mut self) {
        let cuts = self.slopes.len();
        let mut pull: Vec<f64> = (0..cuts)
            .map(|cut| {
                let of =
                    self.products[cut].iter().zip(&self.weights).map(|(product, weight)| product * weight);
                self.reach * of.sum::<f64>() + self.errors[cut]
            })
            .collect();
        for _ in 0..EXCHANGES {
            let (mut to, mut from) = (0, None::<usize>);
            for cut in 0..cuts {
                if pull[cut] < pull[to] {
                    to = cut;
                }
                if self.weights[cut] > 0.0 && from.is_none_or(|from| pull[cut] > pull[from]) {
                    from = Some(cut);
                }
            }
            let Some(from) = from else { return };
            let gap = pull[from] - pull[to];
            if gap <= 1e-9 * pull[from].abs().max(1e-12) {
                return;
            }
            let (a, b) = (&self.products[to], &self.products[from]);
            let bend = self.reach * (a[to] + b[from] - 2.0 * a[from]);
            let part = if bend > 0.0 { (gap / bend).min(self.weights[from]) } else { self.weights[from] };
            for (cut, pull) in pull.iter_mut().enumerate() {
                *pull += self.reach * part * (a[cut] - b[cut]);
            }
            self.weights[to] += part;
            self.weights[from] = if part < self.weights[from] { self.weights[from] - part } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A concave function of many pieces: minus the sum of |x - i| and the largest |x|.
    fn valued(x: &[f64]) -> (f64, Vec<f64>) {
        let mut value = 0.0;
        let mut slope = vec![0.0; x.len()];
        for (at, &x) in x.iter().enumerate() {
            let off = x - at as f64;
            value -= off.abs();
            slope[at] -= off.signum();
        }
        let worst = (0..x.len()).max_by(|&a, &b| x[a].abs().total_cmp(&x[b].abs())).unwrap_or(0);
        value -= 20.0 * x[worst].abs();
        slope[worst] -= 20.0 * x[worst].signum();
        (value, slope)
    }

    #[test]
    fn it_finds_the_top_of_a_function_of_many_pieces() {
        let mut x = vec![3.0; 12];
        let (mut value, slope) = valued(&x);
        let mut bundle = Bundle::new(slope, 0.1);
        for _ in 0..400 {
            let Step { by, promise } = bundle.step();
            let next: Vec<f64> = x.iter().zip(&by).map(|(x, by)| x + by).collect();
            let (there, slope) = valued(&next);
            if bundle.seen(&by, promise, there - value, slope) {
                (x, value) = (next, there);
            }
        }
        // Any |x| costs 20 and gains at most 11: the top is at nought.
        assert!(value > -66.01, "{value} at {x:?}");
        assert!(bundle.step().promise < 0.05);
    }
}

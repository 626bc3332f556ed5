//! The age that the newest good restore point of each VM reached before the next one was made: what would have been lost. A
//! table by policy, and the VMs that fared worst.

use std::collections::BTreeMap;

use super::site::{POLICIES, group_of, policy_name};
use super::{HOUR, Year};

#[derive(Default)]
pub struct Report {
    /// Of each VM, since when it has its newest good point.
    newest: BTreeMap<usize, i64>,
    ages: BTreeMap<usize, Vec<i64>>,
}

impl Report {
    /// A VM has a good point, of this instant.
    pub fn point(&mut self, vm: usize, instant: i64) {
        if let Some(before) = self.newest.insert(vm, instant) {
            self.ages.entry(vm).or_default().push(instant - before);
        }
    }

    /// The end, up to which the newest points have aged.
    pub fn end(&mut self, at: i64) {
        for (vm, newest) in &self.newest {
            self.ages.entry(*vm).or_default().push(at - newest);
        }
    }

    /// How many VMs ever had a good point.
    pub fn vms(&self) -> usize {
        self.newest.len()
    }

    fn worst(&self, vm: usize) -> i64 {
        self.ages.get(&vm).and_then(|ages| ages.iter().max()).copied().unwrap_or(0)
    }

    pub fn print(&self, year: &Year) {
        let vms = year.size.vms;
        println!(
            "\nage that a VM's newest good point reached before the next, in hours; and the worst of each VM"
        );
        println!(
            "{:10} {:>5} {:>8} | {:>6} {:>6} {:>6} | {:>6} {:>6} {:>6}  schedule",
            "policy", "VMs", "points", "p50", "p95", "p99", "p50", "p95", "max"
        );
        let groups: Vec<usize> = (0..vms).map(|vm| group_of(vm, vms)).collect();
        for (number, policy) in POLICIES.iter().enumerate() {
            let mine: Vec<usize> = (0..vms).filter(|vm| groups[*vm] == number).collect();
            if mine.is_empty() {
                continue;
            }
            self.row(&policy_name(number), &mine, &format!("{} {}", policy.crons.join(", "), policy.zone));
        }
        self.row("all", &(0..vms).collect::<Vec<_>>(), "");
        let mut order: Vec<usize> = (0..vms).collect();
        order.sort_by_key(|vm| std::cmp::Reverse(self.worst(*vm)));
        let worst = order.iter().take(5).map(|vm| format!("vm-{vm:04} {} h", self.worst(*vm) / HOUR));
        println!("the worst: {}", worst.collect::<Vec<_>>().join(", "));
    }

    fn row(&self, name: &str, vms: &[usize], schedule: &str) {
        let mut ages: Vec<i64> = vms.iter().filter_map(|vm| self.ages.get(vm)).flatten().copied().collect();
        let mut worst: Vec<i64> = vms.iter().map(|vm| self.worst(*vm)).collect();
        ages.sort_unstable();
        worst.sort_unstable();
        let hours = |sorted: &[i64], percent| percentile(sorted, percent) as f64 / HOUR as f64;
        println!(
            "{name:10} {:>5} {:>8} | {:>6.1} {:>6.1} {:>6.1} | {:>6.1} {:>6.1} {:>6.1}  {schedule}",
            vms.len(),
            ages.len(),
            hours(&ages, 50),
            hours(&ages, 95),
            hours(&ages, 99),
            hours(&worst, 50),
            hours(&worst, 95),
            hours(&worst, 100)
        );
    }
}

/// The value that so many percent do not exceed; nothing of nothing.
pub fn percentile(sorted: &[i64], percent: usize) -> i64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0)
}

//! "Did you mean": the nearest of the words that would have been right. Knows nothing of what they mean.

/// The candidate nearest to `word`, when it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let slips =
        |candidate: &&str| distance(&word.to_lowercase().replace('-', "_"), &candidate.replace('-', "_"));
    let best = candidates.iter().copied().min_by_key(|candidate| slips(candidate))?;
    // A third of the letters wrong is still a slip; more is another word.
    let allowed = best.len().max(word.len()).div_ceil(3);
    (slips(&best) <= allowed).then_some(best)
}

/// Edit distance (Levenshtein), one row at a time.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_corrected_and_another_word_is_not() {
        let keys = ["schedules", "select", "repositories", "time_zone"];
        assert_eq!(nearest("schedule", &keys), Some("schedules"));
        assert_eq!(nearest("repository", &keys), Some("repositories"));
        assert_eq!(nearest("time-zone", &keys), Some("time_zone"));
        assert_eq!(nearest("colour", &keys), None);
        assert_eq!(nearest("", &keys), None);
    }
}

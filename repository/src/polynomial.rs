//! A random irreducible polynomial, which restic's configuration must carry for its content-defined chunker.
//!
//! We cut at fixed places and never use it ourselves; a restic that writes into the same repository does. The
//! test is Ben-Or's, as in restic's chunker.

const DEGREE: u32 = 53;

/// A random irreducible polynomial of degree 53 over GF(2), one bit for each coefficient.
pub(crate) fn random() -> u64 {
    loop {
        let candidate = (rand::random::<u64>() & ((1 << DEGREE) - 1)) | (1 << DEGREE) | 1;
        if irreducible(candidate) {
            return candidate;
        }
    }
}

fn degree(f: u64) -> u32 {
    f.checked_ilog2().unwrap_or(0)
}

fn remainder(mut f: u64, modulus: u64) -> u64 {
    while f != 0 && degree(f) >= degree(modulus) {
        f ^= modulus << (degree(f) - degree(modulus));
    }
    f
}

fn product(mut a: u64, mut b: u64, modulus: u64) -> u64 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 == 1 {
            sum ^= a;
        }
        b >>= 1;
        a = remainder(a << 1, modulus);
    }
    sum
}

fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(a, b));
    }
    a
}

/// Ben-Or: no factor in common with x^(2^i) - x for any i up to half the degree.
fn irreducible(f: u64) -> bool {
    let mut power = 2;
    (1..=degree(f) / 2).all(|_| {
        power = product(power, power, f);
        divisor(f, power ^ 2) == 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_restic_about_known_polynomials() {
        // The first is from the tests of restic's chunker, the second was made by `restic init`.
        for known in [0x003D_A335_8B4D_C173, 0x0031_ABDC_560D_75B7] {
            assert!(irreducible(known), "{known:#x}");
        }
        assert!(!irreducible(0b101), "x^2+1 = (x+1)^2");
        assert!(irreducible(0b111), "x^2+x+1");
        assert!(!irreducible(0x003D_A335_8B4D_C172), "even: divisible by x");
        assert_eq!(degree(random()), DEGREE);
    }
}

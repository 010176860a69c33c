//! A logarithm in integers, so that every machine and every compiler places alike.

/// `-log2(x / 2^64)` of `x` (0 counts as 1), in units of 2^-32: from 0 (for the largest) to 64 · 2^32.
pub fn neg_log2(x: u64) -> u64 {
    let x = x.max(1);
    let zeros = x.leading_zeros();
    // Mantissa in [1, 2) with 63 fractional bits; squaring it yields one bit of the logarithm at a time.
    let mut mantissa = x << zeros;
    let mut fraction = 0u64;
    for _ in 0..32 {
        let square = u128::from(mantissa) * u128::from(mantissa);
        fraction <<= 1;
        if square >> 127 == 1 {
            fraction |= 1;
            mantissa = (square >> 64) as u64;
        } else {
            mantissa = (square >> 63) as u64;
        }
    }
    // log2(x) = 63 - zeros + fraction/2^32; the minuend is 64.
    ((u64::from(zeros) + 1) << 32) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_floating_point() {
        for shift in 0..64 {
            for x in [
                1u64 << shift,
                (1u64 << shift) | ((1u64 << shift) / 3),
                u64::MAX >> shift,
            ] {
                let exact = 64.0 - (x as f64).log2();
                let ours = neg_log2(x) as f64 / 4_294_967_296.0;
                assert!((exact - ours).abs() < 1e-6, "{x}: {exact} {ours}");
            }
        }
    }
}

//! CPU and memory as users write them, held as whole numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Problem, quoted};

/// CPU in thousandths of a core. Written as a decimal number of cores: `0.5`, `2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cpu {
    /// Thousandths of a core.
    pub millis: u64,
}

impl Cpu {
    /// The most whole cores that can be written.
    const MAX: u64 = u64::MAX / 1_000;

    /// From thousandths of a core.
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }
}

impl FromStr for Cpu {
    type Err = Problem;

    /// Accepts what the original accepts: `0`, `0.<digits>`, `<integer>` without leading zero, `<integer>.<digits>`.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::new(format!("must be a number of cores such as 0.5 or 2, got {}", quoted(text)));
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || (whole.len() > 1 && whole.starts_with('0')) || fraction.is_some_and(|f| !all_digits(f))
        {
            return Err(bad());
        }
        let too_much =
            || Problem::new(format!("is more than there can be: at most {}, got {}", Self::MAX, quoted(text)));
        // Only digits are left, so that nothing but their number can be wrong.
        let cores: u64 = whole.parse().map_err(|_| too_much())?;
        let mut thousandths = fraction.unwrap_or("").to_owned();
        thousandths.truncate(3);
        while thousandths.len() < 3 {
            thousandths.push('0');
        }
        let part: u64 = thousandths.parse().map_err(|_| bad())?;
        let millis = cores.checked_mul(1_000).and_then(|m| m.checked_add(part)).ok_or_else(too_much)?;
        Ok(Self { millis })
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.millis / 1_000, self.millis % 1_000);
        if part == 0 {
            return write!(f, "{whole}");
        }
        write!(f, "{whole}.{}", format!("{part:03}").trim_end_matches('0'))
    }
}

/// Memory or disk in bytes. Written with a unit: `512Mi`, `2Gi`, `500M`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes.
    pub bytes: u64,
}

const UNITS: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("K", 1_000),
];

impl Memory {
    /// From mebibytes.
    pub const fn from_mebibytes(mebibytes: u64) -> Self {
        Self { bytes: mebibytes << 20 }
    }
}

impl FromStr for Memory {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::new(format!("must be a size with a unit such as 512Mi or 2Gi, got {}", quoted(text)));
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(digits);
        if number.is_empty() || number.starts_with('0') {
            return Err(bad());
        }
        let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let most = u64::MAX / scale;
        let too_much =
            || Problem::new(format!("is more than there can be: at most {most}{unit}, got {}", quoted(text)));
        let number: u64 = number.parse().map_err(|_| too_much())?;
        number.checked_mul(scale).map(|bytes| Self { bytes }).ok_or_else(too_much)
    }
}

impl fmt::Display for Memory {
    /// The largest unit that divides the size exactly, binary units first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes > 0 {
            for (name, scale) in UNITS {
                if self.bytes.is_multiple_of(scale) {
                    return write!(f, "{}{name}", self.bytes / scale);
                }
            }
        }
        write!(f, "{}", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_format() {
        for (text, millis) in [("0", 0), ("0.5", 500), ("0.25", 250), ("2", 2_000), ("1.5", 1_500), ("0.0005", 0)] {
            assert_eq!(text.parse::<Cpu>(), Ok(Cpu { millis }), "{text}");
        }
        for text in ["", "01", ".5", "1.", "-1", "1e3", "half", "1,5", "00", "99999999999999999999"] {
            assert!(text.parse::<Cpu>().is_err(), "{text}");
        }
        assert_eq!(Cpu { millis: 1_250 }.to_string(), "1.25");
        assert_eq!(Cpu { millis: 50 }.to_string(), "0.05");
    }

    #[test]
    fn memory_format() {
        for (text, bytes) in [
            ("512Mi", 512 << 20),
            ("2Gi", 2 << 30),
            ("1Ti", 1 << 40),
            ("64Ki", 64 << 10),
            ("500M", 500_000_000),
            ("1G", 1_000_000_000),
            ("7K", 7_000),
            ("3T", 3_000_000_000_000),
        ] {
            assert_eq!(text.parse::<Memory>(), Ok(Memory { bytes }), "{text}");
            assert_eq!(text.parse::<Memory>().expect("valid").to_string().parse::<Memory>(), Ok(Memory { bytes }));
        }
        for text in ["", "512", "0Mi", "05Mi", "Mi", "512mb", "512 Mi", "1.5Gi", "-1Gi", "99999999999Ti"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }

    /// Their form is right, so that nothing is to be said of that.
    #[test]
    fn what_is_too_much_is_told_what_is_the_most() {
        let memory = |text: &str| text.parse::<Memory>().map_err(|problem| problem.0);
        assert_eq!(memory("16777215Ti"), Ok(Memory { bytes: 16_777_215 << 40 }));
        let refused = |text: &str| format!("is more than there can be: at most 16777215Ti, got {text:?}");
        for text in ["16777216Ti", "99999999Ti", "99999999999999999999Ti"] {
            assert_eq!(memory(text), Err(refused(text)));
        }
        for text in ["18446744073709552", "99999999999999999999"] {
            let problem = text.parse::<Cpu>().expect_err("too many").0;
            assert!(problem.starts_with("is more than there can be: at most 18446744073709551, got"), "{problem}");
        }
    }
}

//! `strftime_now`: the date, for templates that tell the model what day it is.

use minijinja::{Error, ErrorKind, State};
use std::time::{SystemTime, UNIX_EPOCH};

/// The variable that holds the time; no template can name it.
pub(super) const VARIABLE: &str = "strftime_now()";

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The time as `format` says, in the C locale.
pub(super) fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    let seconds = state.lookup(VARIABLE).and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
    strftime(seconds, format)
}

fn strftime(seconds: u64, format: &str) -> Result<String, Error> {
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(days as usize + 4) % 7];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let day_of_year = (1..month).map(|m| days_in(m, leap)).sum::<u64>() + day;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (padded, directive) = match chars.next() {
            Some('-') => (false, chars.next()),
            other => (true, other),
        };
        let number = |n: u64, width: usize| if padded { format!("{n:0width$}") } else { n.to_string() };
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('e') => {
                if padded {
                    format!("{day:2}")
                } else {
                    day.to_string()
                }
            }
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => number(hour, 2),
            Some('I') => number(hour12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('j') => number(day_of_year, 3),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('f') => "000000".to_owned(),
            Some('Z' | 'z') => String::new(),
            Some('%') => "%".to_owned(),
            other => {
                let directive = other.map_or_else(String::new, String::from);
                let message = format!("strftime_now: `%{directive}` is not supported");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        });
    }
    Ok(out)
}

/// Year, month and day of a day counted from 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days_in(month: u64, leap: bool) -> u64 {
    match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_as_python_writes_them() {
        // From `datetime.fromtimestamp(…, UTC).strftime(…)`.
        let format = "%Y-%m-%d %H:%M:%S %A %a %B %b %j %y %I%p %-d %%";
        assert_eq!(strftime(0, format).unwrap(), "1970-01-01 00:00:00 Thursday Thu January Jan 001 70 12AM 1 %");
        assert_eq!(
            strftime(951_827_696, format).unwrap(),
            "2000-02-29 12:34:56 Tuesday Tue February Feb 060 00 12PM 29 %"
        );
        assert_eq!(strftime(1_798_761_599, "%d %b %Y, day %j").unwrap(), "31 Dec 2026, day 365");
        assert!(strftime(0, "%Q").is_err());
    }
}

//! Which day and month it is, in UTC.

/// A moment, as budgets that begin anew see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Today {
    /// Days since 1 January 1970.
    pub day: u32,
    /// Months since January 1970.
    pub month: u32,
}

impl Today {
    /// Returns the day and the month of a time in milliseconds since 1970 (UTC).
    ///
    /// The month is that of the proleptic Gregorian calendar, worked out with years that begin in March, so that the leap
    /// day is the last one; as in Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    pub fn at(time_ms: u64) -> Self {
        const MS_PER_DAY: u64 = 86_400_000;
        /// From 1 March of the year 0 to 1 January 1970.
        const DAYS_BEFORE: u64 = 719_468;
        const DAYS_PER_ERA: u64 = 146_097;
        let days = time_ms / MS_PER_DAY;
        let (era, day) = ((days + DAYS_BEFORE) / DAYS_PER_ERA, (days + DAYS_BEFORE) % DAYS_PER_ERA);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        // Months since March of the year 0; January 1970 is 1969 years and ten months after that.
        let months = (era * 400 + year) * 12 + from_march;
        let month = months.saturating_sub(1_969 * 12 + 10);
        Self { day: u32::try_from(days).unwrap_or(u32::MAX), month: u32::try_from(month).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        // The month beside jiff's, on every day of four hundred years.
        let epoch = jiff::civil::date(1970, 1, 1);
        for day in 0..146_097_i64 {
            let date = epoch.checked_add(jiff::Span::new().days(day)).unwrap();
            let month = (i32::from(date.year()) - 1970) * 12 + i32::from(date.month()) - 1;
            let today = Today::at(day as u64 * 86_400_000 + 86_399_999);
            assert_eq!((today.day, today.month), (day as u32, month as u32), "{date}");
        }
        assert_eq!(Today::at(u64::MAX).day, u32::MAX);
    }
}

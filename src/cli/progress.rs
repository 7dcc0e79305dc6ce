//! What a download looks like: bars on a terminal, plain lines elsewhere.
//! Both go to standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

use crate::hub::{Event, Progress};

/// Between two plain lines about the whole.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows what is fetched.
pub struct Display {
    state: Mutex<State>,
}

struct State {
    begun: Instant,
    last_line: Instant,
    /// Bytes to fetch and bytes received.
    planned: u64,
    received: u64,
    files: BTreeMap<String, File>,
    on_terminal: bool,
    /// Drawn when there is something to fetch.
    bars: Option<Bars>,
}

#[derive(Default)]
struct File {
    size: u64,
    /// Bytes from an earlier process.
    have: u64,
    received: u64,
    bar: Option<ProgressBar>,
}

impl File {
    fn missing(&self) -> u64 {
        self.size.saturating_sub(self.have + self.received)
    }
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
}

impl Display {
    pub fn new() -> Self {
        let now = Instant::now();
        let state = State {
            begun: now,
            last_line: now,
            planned: 0,
            received: 0,
            files: BTreeMap::new(),
            on_terminal: std::io::stderr().is_terminal(),
            bars: None,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the numbers as they are: good enough.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Progress for Display {
    fn event(&self, event: &Event<'_>) {
        let mut state = self.lock();
        match *event {
            Event::Planned { bytes, .. } => state.plan(bytes),
            Event::Started { file, size, have } => state.start(file, size, have),
            Event::Received { file, bytes } => state.receive(file, bytes),
            Event::Restarted { file } => state.restart(file),
            Event::Finished { file } => state.finish(file),
            Event::Waiting { file } => {
                state.say(&format!("{file}: another process is fetching it; waiting"));
            }
            Event::Retrying { reason, wait } => {
                let seconds = wait.as_secs_f64();
                state.say(&format!("{reason}; trying again in {seconds:.1} s"));
            }
        }
    }
}

impl State {
    fn plan(&mut self, bytes: u64) {
        self.planned += bytes;
        if self.on_terminal {
            let bars = self.bars.get_or_insert_with(Bars::new);
            bars.total.set_length(self.planned);
        }
    }

    fn start(&mut self, file: &str, size: u64, have: u64) {
        let bar = self.bars.as_ref().map(|bars| bars.file(file, size, have));
        if bar.is_none() {
            let resumed = match have {
                0 => String::new(),
                _ => format!(", going on after {}", bytes(have)),
            };
            self.say(&format!("{file}: {}{resumed}", bytes(size)));
        }
        let file = self.files.entry(file.to_owned()).or_default();
        *file = File {
            size,
            have,
            received: 0,
            bar,
        };
    }

    fn receive(&mut self, file: &str, count: u64) {
        self.received += count;
        if let Some(file) = self.files.get_mut(file) {
            file.received += count;
            if let Some(bar) = &file.bar {
                bar.inc(count);
            }
        }
        match &self.bars {
            Some(bars) => bars.total.set_position(self.received),
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                self.say(&self.summary());
            }
            None => {}
        }
    }

    fn restart(&mut self, name: &str) {
        if let Some(file) = self.files.get_mut(name) {
            // What came was in vain, and all of it has to come.
            self.planned += file.size - file.missing();
            file.have = 0;
            file.received = 0;
            if let Some(bar) = &file.bar {
                bar.set_position(0);
            }
        }
    }

    fn finish(&mut self, name: &str) {
        let Some(file) = self.files.remove(name) else {
            return;
        };
        match (&self.bars, file.bar) {
            (Some(bars), Some(bar)) => {
                bar.finish_and_clear();
                bars.all.remove(&bar);
            }
            _ => self.say(&format!("{name}: verified")),
        }
    }

    /// How much of the whole there is, how fast it comes, how long it takes.
    fn summary(&self) -> String {
        let rate = self.received as f64 / self.begun.elapsed().as_secs_f64().max(1e-3);
        let left = self.planned.saturating_sub(self.received) as f64 / rate.max(1.0);
        format!(
            "{} of {} ({}%), {}/s, {} left",
            bytes(self.received),
            bytes(self.planned),
            100 * self.received / self.planned.max(1),
            bytes(rate as u64),
            HumanDuration(Duration::from_secs(left as u64)),
        )
    }

    fn say(&self, line: &str) {
        match &self.bars {
            // Fails when the terminal is gone, and then nobody reads it.
            Some(bars) => drop(bars.all.println(line)),
            None => eprintln!("{line}"),
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let total = all.add(ProgressBar::new(0));
        total.set_style(style());
        total.set_prefix("total");
        Self { all, total }
    }

    fn file(&self, name: &str, size: u64, have: u64) -> ProgressBar {
        let bar = ProgressBar::new(size).with_position(have);
        let bar = self.all.insert_before(&self.total, bar);
        bar.set_style(style());
        bar.set_prefix(name.to_owned());
        bar.reset_eta();
        bar
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.total.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix:32} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
                    {decimal_bytes_per_sec} {eta}";
    // A template that is wrong is seen at the first download.
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// 548105171 → 548.1 MB.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(548_105_171), "548.1 MB");
        assert_eq!(bytes(999_960), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18446744.1 TB");
    }

    #[test]
    fn the_total_counts_what_comes_and_what_has_to_come_again() {
        let display = Display::new();
        display.event(&Event::Planned {
            files: 1,
            bytes: 60,
        });
        display.event(&Event::Started {
            file: "a",
            size: 100,
            have: 40,
        });
        display.event(&Event::Received {
            file: "a",
            bytes: 60,
        });
        assert_eq!(display.received(), 60);
        display.event(&Event::Restarted { file: "a" });
        display.event(&Event::Received {
            file: "a",
            bytes: 100,
        });
        display.event(&Event::Finished { file: "a" });
        let state = display.lock();
        assert_eq!((state.received, state.planned), (160, 160));
        assert!(state.files.is_empty());
    }
}

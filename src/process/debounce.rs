//! Bursts of changes: acting once on many.

use std::time::Duration;

use tokio::time::Instant;

/// How long a burst of changes may last. A single change doesn't wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// A burst has ended once nothing changed for this long.
    pub idle: Duration,
    /// A burst is acted on after this long even if it goes on.
    pub longest: Duration,
}

impl Default for Debounce {
    fn default() -> Self {
        Self { idle: Duration::from_millis(100), longest: Duration::from_secs(1) }
    }
}

/// Applies [`Debounce`].
#[derive(Debug)]
pub struct Debouncer {
    debounce: Debounce,
    acted: Option<Instant>,
}

impl Debouncer {
    /// Nothing has been acted on yet.
    pub fn new(debounce: Debounce) -> Self {
        Self { debounce, acted: None }
    }

    /// Notes that changes have just been acted on.
    pub fn acted(&mut self) {
        self.acted = Some(Instant::now());
    }

    /// Something has changed: how long to wait for what may follow.
    ///
    /// ```text
    /// let burst = debouncer.burst();
    /// while let Some(until) = burst.wait_until(is_whole()) {
    ///     if timeout_at(until, changed()).await.is_err() { break }
    /// }
    /// ```
    pub fn burst(&self) -> Burst {
        let now = Instant::now();
        Burst {
            is_first: self.acted.is_none_or(|acted| now >= acted + self.debounce.idle),
            idle: self.debounce.idle,
            deadline: now + self.debounce.longest,
        }
    }
}

/// A burst of changes, from its first on.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Whether nothing was acted on within [`Debounce::idle`] before it.
    is_first: bool,
    idle: Duration,
    deadline: Instant,
}

impl Burst {
    /// Until when to wait for one more change; the burst has ended if none comes. `None`: it is to
    /// be acted on now.
    ///
    /// The first change for a while doesn't wait, if it is whole.
    pub fn wait_until(&self, is_whole: bool) -> Option<Instant> {
        let now = Instant::now();
        let is_over = now >= self.deadline || self.is_first && is_whole;
        (!is_over).then(|| (now + self.idle).min(self.deadline))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout_at;

    use super::*;

    const DEBOUNCE: Debounce =
        Debounce { idle: Duration::from_millis(100), longest: Duration::from_secs(1) };
    const NONE: Debounce = Debounce { idle: Duration::ZERO, longest: Duration::ZERO };

    /// How long a change waits if another one follows every `period`.
    async fn waited(debouncer: &Debouncer, period: Duration, is_whole: impl Fn() -> bool) -> u128 {
        let start = Instant::now();
        let burst = debouncer.burst();
        while let Some(until) = burst.wait_until(is_whole()) {
            if timeout_at(until, tokio::time::sleep(period)).await.is_err() {
                break;
            }
        }
        start.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_change_waits_for_nothing() {
        let mut debouncer = Debouncer::new(DEBOUNCE);
        let seldom = Duration::from_secs(60);
        assert_eq!(waited(&debouncer, seldom, || true).await, 0);
        debouncer.acted();
        tokio::time::sleep(DEBOUNCE.idle).await;
        assert_eq!(waited(&debouncer, seldom, || true).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_its_end_but_not_forever() {
        let mut debouncer = Debouncer::new(DEBOUNCE);
        debouncer.acted();
        assert_eq!(waited(&debouncer, Duration::from_secs(60), || true).await, 100);
        debouncer.acted();
        assert_eq!(waited(&debouncer, Duration::from_millis(30), || true).await, 1000);
        debouncer.acted();
        let none = Debouncer { debounce: NONE, ..debouncer };
        assert_eq!(waited(&none, Duration::from_millis(30), || true).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_whole_waits_until_it_is() {
        let debouncer = Debouncer::new(DEBOUNCE);
        let looks = Cell::new(0);
        let third = || looks.replace(looks.get() + 1) == 2;
        assert_eq!(waited(&debouncer, Duration::from_millis(50), third).await, 100);
        assert_eq!(waited(&debouncer, Duration::from_secs(60), || false).await, 100);
    }
}

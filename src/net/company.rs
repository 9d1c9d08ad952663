//! All who wait for one application: one of them looks whether it has come, one looks its name up.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::Upstream;

/// The company of each upstream for which somebody has waited: as many as are configured.
static COMPANIES: Mutex<Vec<(Upstream, Arc<Company>)>> = Mutex::new(Vec::new());

/// All who wait for one application.
#[derive(Debug)]
pub(super) struct Company {
    /// Whoever has the one permit tries to connect; the others wait for the news.
    lead: Semaphore,
    arrived: Notify,
    /// How many look-ups have begun.
    begun: AtomicU64,
    /// The newest result, and which look-up brought it. Locked by the one that is under way.
    found: Arc<tokio::sync::Mutex<Found>>,
}

#[derive(Debug, Default)]
struct Found {
    number: u64,
    addrs: Vec<SocketAddr>,
    failure: Option<(io::ErrorKind, String)>,
}

impl Company {
    /// Those who wait for this application.
    pub(super) fn of(upstream: &Upstream) -> Arc<Company> {
        let mut companies = COMPANIES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, company)) = companies.iter().find(|(own, _)| own == upstream) {
            return Arc::clone(company);
        }
        let company = Arc::new(Company::new());
        companies.push((upstream.clone(), Arc::clone(&company)));
        company
    }

    fn new() -> Company {
        Company {
            lead: Semaphore::new(1),
            arrived: Notify::new(),
            begun: AtomicU64::new(0),
            found: Arc::default(),
        }
    }

    /// Waits to be the one that tries, first come first served.
    pub(super) async fn lead(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.lead.acquire().await.ok()
    }

    /// News from now on that the application is there.
    pub(super) fn news(&self) -> Pin<Box<Notified<'_>>> {
        let mut news = Box::pin(self.arrived.notified());
        news.as_mut().enable();
        news
    }

    /// Tells all others that the application is there.
    pub(super) fn tell(&self) {
        self.arrived.notify_waiters();
    }

    /// The addresses of a name, by a look-up that begins after this call; those who ask while one is
    /// under way share the next.
    ///
    /// # Errors
    /// When it has none.
    ///
    /// # Cancel safety
    /// A look-up that has begun goes on: its thread could not be stopped, and others wait for it.
    pub(super) async fn look_up(&self, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.look_up_by(async move |()| {
            Ok(tokio::net::lookup_host((name, port)).await?.collect::<Vec<_>>())
        })
        .await
    }

    async fn look_up_by<F>(&self, look_up: impl FnOnce(()) -> F) -> io::Result<Vec<SocketAddr>>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let before = self.begun.load(Ordering::Acquire);
        let mut found = Arc::clone(&self.found).lock_owned().await;
        if found.number <= before {
            found.number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let result = look_up(());
            let task = tokio::spawn(async move {
                match result.await {
                    Ok(addrs) => (found.addrs, found.failure) = (addrs, None),
                    Err(error) => found.failure = Some((error.kind(), error.to_string())),
                }
                found
            });
            found = task.await.map_err(io::Error::other)?;
        }
        match &found.failure {
            None => Ok(found.addrs.clone()),
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    /// A look-up that takes a second and counts itself.
    async fn look_up(company: &Company, counter: &Arc<AtomicU64>) -> io::Result<Vec<SocketAddr>> {
        let counter = Arc::clone(counter);
        company
            .look_up_by(|()| async move {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_secs(1)).await;
                Ok(vec![SocketAddr::from(([127, 0, 0, 1], u16::try_from(number).unwrap()))])
            })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn many_share_one_look_up_that_began_after_they_asked() {
        let (company, counter) = (Arc::new(Company::new()), Arc::default());
        let mut tasks = Vec::new();
        for _ in 0..100 {
            let (company, counter) = (Arc::clone(&company), Arc::clone(&counter));
            tasks.push(tokio::spawn(async move { look_up(&company, &counter).await }));
        }
        for (number, task) in tasks.into_iter().enumerate() {
            let addrs = task.await.expect("a task").expect("an address");
            assert_eq!(usize::from(addrs[0].port()), number.min(1), "of the second, but the first");
        }
        assert_eq!(counter.load(Ordering::SeqCst), 2);
        assert_eq!(look_up(&company, &counter).await.expect("an address")[0].port(), 2, "fresh");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_does_not_begin_another_one() {
        let (company, counter) = (Company::new(), Arc::default());
        for _ in 0..10 {
            let left = tokio::time::timeout(Duration::from_millis(50), look_up(&company, &counter));
            assert!(left.await.is_err());
        }
        assert_eq!(counter.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_look_up_is_told_to_all_and_tried_again() {
        let company = Company::new();
        let failing = company.look_up_by(|()| async { Err(io::ErrorKind::NotFound.into()) });
        assert_eq!(failing.await.expect_err("none").kind(), io::ErrorKind::NotFound);
        assert!(look_up(&company, &Arc::default()).await.is_ok());
    }
}

//! The store on etcd (3.4 and later).
//!
//! One connection a member, and one member is asked at a time: a call that certainly was not carried out (no
//! connection, no leader) goes on to the next member until the deadline. The client library's own balancer would
//! spread calls over dead members too, and hide whether a failed write had been sent.
//!
//! - Reads, lease calls and watches are asked again elsewhere whatever happened. A transaction is not, once it may
//!   have arrived: [`Error::OutcomeUnknown`].
//! - etcd renews all leases when its own leader changes: a lease may live up to one time to live longer.
//! - Ranges are read in pages at one revision. Watches start one revision early and skip it, because etcd 3.4 loses
//!   a delete that happened at exactly the revision of a compaction.

mod failure;
mod options;

pub use options::{EtcdOptions, EtcdTls};

use super::state::check_request;
use super::{Change, Compare, Error, KeyValue, LeaseId, MetaStore, Revision, TxnOutcome, WatchBatch, Write};
use async_trait::async_trait;
use etcd_client::{self as etcd, Client, CompareOp, ConnectOptions, EventType, GetOptions, Txn, TxnOp};
use failure::{Failure, classify};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use futures::{FutureExt, TryFutureExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

/// Keys read at once.
const PAGE_KEYS: i64 = 1_000;
/// The largest answer that is taken: a page of large values, or a watch that has much to catch up with.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// A silent connection is probed so often. etcd closes connections that probe more often than every 5 s.
const PROBE_EVERY: Duration = Duration::from_secs(6);
/// And given up after so long without an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A watch that told nothing for so long is compared with the store. A member whose disk has stalled keeps its
/// connections and answers probes, so nothing else would tell; and one read of no key costs etcd next to nothing.
const WATCH_PATIENCE: Duration = Duration::from_secs(10);
/// Pause after all members were asked in vain.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// A handle on the store. Clones share the connections.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    members: Vec<Member>,
    /// The member that is asked first.
    preferred: AtomicUsize,
    connect: ConnectOptions,
    deadline: Duration,
}

struct Member {
    url: String,
    /// Made when first needed.
    client: Mutex<Option<Client>>,
}

/// Whether a call may be sent again when nobody knows if it arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Again,
    Once,
}

type Answer<T> = BoxFuture<'static, Result<T, etcd::Error>>;

impl EtcdStore {
    /// Reads the TLS files; connects when first used.
    ///
    /// # Errors
    /// [`Error::Invalid`] for endpoints or files that cannot be used.
    pub fn new(options: &EtcdOptions) -> Result<Self, Error> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(Duration::from_millis(options.connect_timeout_ms))
            .with_keep_alive(PROBE_EVERY, PROBE_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PROBE_EVERY)
            .with_require_leader(true);
        if !options.user.is_empty() {
            connect =
                connect.with_user(&options.user, options.password.expose()).with_auto_token_refresh(true);
        }
        if let Some(tls) = &options.tls {
            connect = connect.with_tls(options::tls(tls));
        }
        options::check(options)?;
        let member = |url: &String| Member { url: url.clone(), client: Mutex::default() };
        let members = options.endpoints.iter().map(member).collect();
        let deadline = Duration::from_millis(options.request_timeout_ms);
        let shared = Shared { members, preferred: AtomicUsize::new(0), connect, deadline };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Asks one member after the other until one answers or the deadline passes. Also says which one answered.
    async fn ask<T: Send>(
        &self,
        sending: Sending,
        call: impl Fn(Client) -> Answer<T> + Send + Sync,
    ) -> Result<(T, usize), Error> {
        let (members, start) = (&self.shared.members, Instant::now());
        let mut reason = String::new();
        for asked in 1.. {
            let left = self.shared.deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            // One silent member must not use up the time of the others.
            let share = if members.len() > 1 { left / 2 } else { left };
            let index = self.shared.preferred.load(Ordering::Relaxed) % members.len();
            let failure = match self.shared.client(index, share).await {
                Ok(client) => {
                    let patience = if sending == Sending::Once { left } else { share };
                    let answer = timeout(patience, call(client)).await;
                    let silent = || Err(Failure::Unclear(format!("no answer within {patience:?}")));
                    match answer.map_or_else(|_| silent(), |answer| answer.map_err(|e| classify(&e))) {
                        Ok(answer) => return Ok((answer, index)),
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            let text = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Unclear(text) if sending == Sending::Once => {
                    self.shared.avoid(index);
                    return Err(Error::OutcomeUnknown(format!("{}: {text}", members[index].url)));
                }
                Failure::StaleToken(text) => {
                    self.shared.members[index].client.lock().await.take();
                    text
                }
                Failure::Unclear(text) | Failure::NotDone(text) => text,
            };
            reason = format!("{}: {text}", members[index].url);
            self.shared.avoid(index);
            if asked % members.len() == 0 {
                sleep(ROUND_PAUSE.min(left)).await;
            }
        }
        Err(Error::Unreachable(reason))
    }

    async fn page(&self, prefix: &str, from: Vec<u8>, at: Revision) -> Result<etcd::GetResponse, Error> {
        let options = GetOptions::new().with_range(end_of(prefix)).with_limit(PAGE_KEYS).with_revision(at);
        let get = move |client: Client| -> Answer<_> {
            let (from, options) = (from.clone(), options.clone());
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            async move { kv.get(from, Some(options)).await }.boxed()
        };
        Ok(self.ask(Sending::Again, get).await?.0)
    }
}

impl Shared {
    /// The connection to a member, made (and the user logged in) if need be.
    async fn client(&self, index: usize, patience: Duration) -> Result<Client, Failure> {
        let member = &self.members[index];
        let connected = async {
            let mut client = member.client.lock().await;
            if let Some(client) = &*client {
                return Ok(client.clone());
            }
            let made = Client::connect([&member.url], Some(self.connect.clone())).await;
            let made = made.map_err(|error| match classify(&error) {
                Failure::Unclear(text) => Failure::NotDone(text),
                other => other,
            })?;
            Ok(client.insert(made).clone())
        };
        let silent = || Err(Failure::NotDone(format!("no connection within {patience:?}")));
        timeout(patience, connected).await.unwrap_or_else(|_| silent())
    }

    /// Asks another member first from now on, unless somebody has seen to that already.
    fn avoid(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        let _ = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[async_trait]
impl MetaStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        if key.is_empty() {
            return Ok(None);
        }
        let key = key.to_owned();
        let get = move |client: Client| -> Answer<_> {
            let key = key.clone();
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            async move { kv.get(key, None).await }.boxed()
        };
        let (mut answer, _) = self.ask(Sending::Again, get).await?;
        answer.take_kvs().into_iter().next().map(key_value).transpose()
    }

    async fn range(&self, prefix: &str) -> Result<(Revision, Vec<KeyValue>), Error> {
        'again: loop {
            let (mut all, mut revision) = (Vec::new(), 0);
            // In etcd's words, the key `\0` stands for "from the first key on".
            let mut from = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
            loop {
                let mut page = match self.page(prefix, from, revision).await {
                    // Compacted between two pages.
                    Err(Error::Compacted { .. }) => continue 'again,
                    other => other?,
                };
                if revision == 0 {
                    revision = page.header().map_or(0, etcd::ResponseHeader::revision);
                }
                for kv in page.take_kvs() {
                    all.push(key_value(kv)?);
                }
                match all.last() {
                    Some(last) if page.more() => from = [last.key.as_bytes(), &[0]].concat(),
                    _ => return Ok((revision, all)),
                }
            }
        }
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, Error> {
        check_request(&compares, &writes)?;
        let compares: Vec<etcd::Compare> = compares.into_iter().map(compare).collect();
        let lease = writes.iter().find_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            _ => None,
        });
        let writes: Vec<TxnOp> = writes.into_iter().map(operation).collect();
        let txn = Txn::new().when(compares).and_then(writes);
        let send = move |client: Client| -> Answer<_> {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }.boxed()
        };
        let (answer, _) = self.ask(Sending::Once, send).await.map_err(|error| with_lease(error, lease))?;
        if !answer.succeeded() {
            return Ok(TxnOutcome::Refused);
        }
        Ok(TxnOutcome::Committed(answer.header().map_or(0, etcd::ResponseHeader::revision)))
    }

    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, Error> {
        let seconds = i64::try_from(ttl_ms.div_ceil(1_000)).unwrap_or(i64::MAX).max(1);
        // Granted twice, the lease that nobody knows of ends by itself.
        let grant = move |client: Client| -> Answer<_> {
            async move { client.lease_client().grant(seconds, None).await }.boxed()
        };
        Ok(LeaseId(self.ask(Sending::Again, grant).await?.0.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let renew = move |client: Client| -> Answer<_> {
            async move { client.lease_client().keep_alive(lease.0).await }.map_ok(drop).boxed()
        };
        self.ask(Sending::Again, renew).await.map_err(|error| with_lease(error, Some(lease)))?;
        Ok(())
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        let revoke = move |client: Client| -> Answer<_> {
            async move { client.lease_client().revoke(lease.0).await }.map_ok(drop).boxed()
        };
        match self.ask(Sending::Again, revoke).await {
            Err(Error::LeaseGone(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> Result<BoxStream<'static, Result<WatchBatch, Error>>, Error> {
        if from < 1 {
            return Err(Error::Invalid(format!("cannot watch from revision {from}: the first one is 1")));
        }
        let first = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        let options = etcd::WatchOptions::new()
            .with_range(end_of(prefix))
            .with_start_revision((from - 1).max(1))
            .with_progress_notify();
        let open = move |client: Client| -> Answer<_> {
            let (first, options) = (first.clone(), options.clone());
            async move {
                let mut watch = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                let mut stream = watch.watch(first, Some(options)).await?;
                // The first message says that the watch stands, or why it does not.
                let created = stream.message().await?;
                Ok((client, stream, created))
            }
            .boxed()
        };
        let ((client, stream, created), index) = self.ask(Sending::Again, open).await?;
        let watch = Watch { _client: client, stream, created, from, index, shared: self.shared.clone() };
        Ok(stream::unfold(Some(watch), Watch::next).boxed())
    }

    fn watch_patience(&self) -> Option<Duration> {
        Some(WATCH_PATIENCE)
    }
}

struct Watch {
    /// Keeps the connection.
    _client: Client,
    stream: etcd::WatchStream,
    created: Option<etcd::WatchResponse>,
    from: Revision,
    index: usize,
    shared: Arc<Shared>,
}

impl Watch {
    /// The next batch; nothing after an error.
    async fn next(watch: Option<Self>) -> Option<(Result<WatchBatch, Error>, Option<Self>)> {
        let mut watch = watch?;
        loop {
            let message = match watch.created.take() {
                Some(created) => Ok(Some(created)),
                None => watch.stream.message().await,
            };
            let told = match message {
                Ok(Some(message)) => batch(&message, watch.from),
                Ok(None) => Err(Error::Unreachable("etcd ended the watch".to_owned())),
                Err(error) => Err(classify(&error).into_read_error()),
            };
            match told {
                Ok(None) => {}
                Ok(Some(batch)) => return Some((Ok(batch), Some(watch))),
                Err(error) => {
                    if matches!(error, Error::Unreachable(_)) {
                        watch.shared.avoid(watch.index);
                    }
                    return Some((Err(error), None));
                }
            }
        }
    }
}

/// What a message of a watch tells, leaving out what was before `from`.
fn batch(message: &etcd::WatchResponse, from: Revision) -> Result<Option<WatchBatch>, Error> {
    if message.compact_revision() > 0 {
        return Err(Error::Compacted { oldest: message.compact_revision() + 1 });
    }
    if message.canceled() {
        return Err(failure::canceled(message.cancel_reason()));
    }
    let mut changes = Vec::with_capacity(message.events().len());
    for event in message.events() {
        let Some(kv) = event.kv().filter(|kv| kv.mod_revision() >= from) else { continue };
        changes.push(match event.event_type() {
            EventType::Put => Change::Put(key_value(kv.clone())?),
            EventType::Delete => Change::Delete { key: text(kv.key())?, revision: kv.mod_revision() },
        });
    }
    let revision = match changes.last() {
        Some(last) => last.revision(),
        // A note on how far etcd has come. Also the creation has no events, but its revision promises nothing.
        None if message.events().is_empty() && !message.created() => {
            message.header().map_or(0, etcd::ResponseHeader::revision)
        }
        None => return Ok(None),
    };
    Ok(Some(WatchBatch { revision, changes }))
}

fn compare(compare: Compare) -> etcd::Compare {
    match compare {
        Compare::Absent(key) => etcd::Compare::create_revision(key, CompareOp::Equal, 0),
        Compare::Present(key) => etcd::Compare::create_revision(key, CompareOp::Greater, 0),
        Compare::CreatedAt(key, at) => etcd::Compare::create_revision(key, CompareOp::Equal, at),
        Compare::ModifiedAt(key, at) => etcd::Compare::mod_revision(key, CompareOp::Equal, at),
    }
}

fn operation(write: Write) -> TxnOp {
    match write {
        Write::Put { key, value, lease } => {
            let options = lease.map(|lease| etcd::PutOptions::new().with_lease(lease.0));
            TxnOp::put(key, value, options)
        }
        Write::Delete(key) => TxnOp::delete(key, None),
        Write::DeletePrefix(prefix) if prefix.is_empty() => {
            TxnOp::delete(vec![0], Some(etcd::DeleteOptions::new().with_range(vec![0])))
        }
        Write::DeletePrefix(prefix) => {
            let end = end_of(&prefix);
            TxnOp::delete(prefix, Some(etcd::DeleteOptions::new().with_range(end)))
        }
    }
}

/// The first key after all with the prefix; `\0` stands for "no end".
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // No byte of UTF-8 is 0xff, so the last one can always grow.
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

fn key_value(kv: etcd::KeyValue) -> Result<KeyValue, Error> {
    let lease = Some(kv.lease()).filter(|lease| *lease != 0).map(LeaseId);
    let (key, create_revision, mod_revision) = (text(kv.key())?, kv.create_revision(), kv.mod_revision());
    Ok(KeyValue { key, value: kv.value().to_vec(), create_revision, mod_revision, lease })
}

fn text(key: &[u8]) -> Result<String, Error> {
    String::from_utf8(key.to_vec()).map_err(|_| Error::Invalid(format!("key {key:?} in etcd is not UTF-8")))
}

/// etcd does not say which lease is gone.
fn with_lease(error: Error, lease: Option<LeaseId>) -> Error {
    match (error, lease) {
        (Error::LeaseGone(_), Some(lease)) => Error::LeaseGone(lease),
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests;

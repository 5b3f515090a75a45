//! A network link that can fail: a TCP proxy on this machine between one side and the other. Works in any container,
//! where firewalls and name spaces need rights.

use futures::future::{Either, select};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Bytes pass.
    Fair,
    /// Nothing passes and nobody is told: connections stay open, new ones are taken and stay dumb.
    Silent,
    /// Connections are reset, new ones too.
    Cut,
}

/// The link; it ends with its process' runtime, connections with it.
pub struct Link {
    port: u16,
    weather: Arc<watch::Sender<Weather>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Link {
    /// A link to that port of 127.0.0.1.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Self::between(listener, port)
    }

    /// The same, from a listener that is there already.
    pub fn between(listener: TcpListener, to: u16) -> Self {
        let port = listener.local_addr().unwrap().port();
        let weather = Arc::new(watch::Sender::new(Weather::Fair));
        let seen = weather.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(near, to, seen.subscribe()));
            }
        });
        Self { port, weather, accepting }
    }

    /// Where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes how it does, for connections that are open too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn carry(near: TcpStream, to: u16, mut weather: watch::Receiver<Weather>) {
    if *weather.borrow() == Weather::Cut {
        reset(&near);
        return;
    }
    if fair(&mut weather).await.is_err() {
        reset(&near);
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let there = pass(&mut near_in, &mut far_out, weather.clone());
    let back = pass(&mut far_in, &mut near_out, weather.clone());
    // A side that was reset (a server killed with a query unread) is told to the other at once, whichever way bytes go.
    if futures::future::try_join(there, back).await.is_ok() {
        return;
    }
    reset(near_in.as_ref());
    reset(far_in.as_ref());
}

/// Closing then sends RST, as a host does that knows nothing of the connection.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

/// Waits for fair weather; an error when the link is cut.
async fn fair(weather: &mut watch::Receiver<Weather>) -> Result<(), Broken> {
    match weather.wait_for(|now| *now != Weather::Silent).await {
        Ok(now) if *now == Weather::Fair => Ok(()),
        _ => Err(Broken),
    }
}

/// The link is cut, or a side was reset.
struct Broken;

/// Carries bytes one way until the sender ends.
async fn pass(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> Result<(), Broken> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = {
            let cut = std::pin::pin!(weather.wait_for(|now| *now == Weather::Cut));
            match select(cut, std::pin::pin!(from.read(&mut buffer))).await {
                Either::Left(_) => return Err(Broken),
                Either::Right((read, _)) => read,
            }
        };
        // What was on its way when the silence began stays on its way, a reset too.
        fair(&mut weather).await?;
        let read = read.map_err(|_| Broken)?;
        if read == 0 {
            to.shutdown().await.ok();
            return Ok(());
        }
        to.write_all(&buffer[..read]).await.map_err(|_| Broken)?;
    }
}

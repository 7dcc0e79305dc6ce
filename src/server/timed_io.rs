//! A connection that doesn't wait for ever: for the rest of a request's head,
//! or for a client that takes nothing of what is written.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What a connection is doing; written where requests are answered, read
/// where bytes come in.
#[derive(Debug, Default)]
pub struct Activity {
    answering: AtomicBool,
    reading_head: AtomicBool,
}

/// An answer in the making. Dropping it says that the answer is sent.
#[derive(Debug)]
pub struct Answering(Arc<Activity>);

impl Activity {
    /// A head was read whole.
    pub fn answer(self: &Arc<Self>) -> Answering {
        self.reading_head.store(false, Ordering::Release);
        self.answering.store(true, Ordering::Release);
        Answering(Arc::clone(self))
    }

    /// Bytes came. True if they are the first of a head.
    fn starts_head(&self) -> bool {
        !self.answering.load(Ordering::Acquire) && !self.reading_head.swap(true, Ordering::AcqRel)
    }

    fn is_reading_head(&self) -> bool {
        !self.answering.load(Ordering::Acquire) && self.reading_head.load(Ordering::Acquire)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.reading_head.store(false, Ordering::Release);
        self.0.answering.store(false, Ordering::Release);
    }
}

/// A stream with a time limit for heads and for writes.
pub struct TimedIo<I> {
    inner: I,
    activity: Arc<Activity>,
    header_timeout: Duration,
    head: Pin<Box<Sleep>>,
    write_timeout: Duration,
    /// Runs while a write makes no progress.
    write: Pin<Box<Sleep>>,
    write_waits: bool,
}

impl<I> TimedIo<I> {
    /// Limits `inner`; the head's time starts with its first byte.
    pub fn new(
        inner: I,
        activity: Arc<Activity>,
        header_timeout: Duration,
        write_timeout: Duration,
    ) -> Self {
        Self {
            inner,
            activity,
            header_timeout,
            head: Box::pin(sleep(header_timeout)),
            write_timeout,
            write: Box::pin(sleep(write_timeout)),
            write_waits: false,
        }
    }

    /// Passes on what a write came to, and gives up one that waits too long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_waits = false;
            return result;
        }
        if !self.write_waits {
            self.write_waits = true;
            let deadline = Instant::now() + self.write_timeout;
            self.write.as_mut().reset(deadline);
        }
        ready!(self.write.as_mut().poll(cx));
        timed_out("the client takes no data")
    }
}

fn timed_out<T>(message: &str) -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
}

impl<I: AsyncRead + Unpin> AsyncRead for TimedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buf);
        if buf.filled().len() > before && this.activity.starts_head() {
            let deadline = Instant::now() + this.header_timeout;
            this.head.as_mut().reset(deadline);
        }
        let late = this.activity.is_reading_head() && this.head.as_mut().poll(cx).is_ready();
        if late {
            return timed_out("the head of the request takes too long");
        }
        result
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for TimedIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watched(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watched(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.watched(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watched(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: Duration = Duration::from_millis(40);

    fn timed(bytes: usize) -> (TimedIo<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(bytes);
        (TimedIo::new(near, Arc::default(), LIMIT, LIMIT), far)
    }

    #[tokio::test]
    async fn a_head_that_trickles_is_cut_off() {
        let (mut io, mut far) = timed(64);
        let trickle = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                sleep(LIMIT / 8).await;
            }
        });
        let mut text = String::new();
        let error = io.read_to_string(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(io);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_may_take_longer_than_a_head() {
        let (mut io, mut far) = timed(64);
        let _answering = io.activity.answer();
        let send = tokio::spawn(async move {
            for _ in 0..4 {
                far.write_all(b"x").await.unwrap();
                sleep(LIMIT / 2).await;
            }
        });
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "xxxx");
        send.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_never_reads_is_given_up() {
        let (mut io, _far) = timed(8);
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

//! The way from the work to the holder of the caller's rights: a call, or a socket between two processes.
//!
//! Messages are JSON, one per packet of a `SOCK_SEQPACKET` socket pair. Descriptors travel beside the first message.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{Answer, HostState, Recovered, Request};
use crate::error::{Context, Error, Kind, Result};
use crate::process::on_thread;
use crate::service::State;

/// The work's view of the host.
#[derive(Clone, Debug)]
pub enum Host {
    /// In this process.
    Here(Arc<Mutex<HostState>>),
    /// In the parent process.
    Parent(Arc<Mutex<Link>>),
}

impl Host {
    async fn call(&self, request: Request) -> Result<Answer> {
        match self {
            // On the heap: seeing to the service is large, and this is a part of everything that reports its progress.
            Self::Here(state) => Box::pin(state.lock().await.handle(request)).await,
            Self::Parent(link) => {
                let link = link.clone().lock_owned().await;
                // The socket blocks; the answer may take as long as a service takes to stop.
                let exchange = move || {
                    link.send(&request, &[])?;
                    link.receive::<Result<Answer>>()?.0
                };
                on_thread(exchange).await?
            }
        }
    }

    /// Gives the output file its name.
    pub async fn publish(&self) -> Result<()> {
        self.call(Request::Publish).await.map(drop)
    }

    /// Whether the service runs.
    pub async fn service_state(&self) -> Result<State> {
        match self.call(Request::ServiceState).await? {
            Answer::State(state) => Ok(state),
            _ => Err(out_of_step()),
        }
    }

    /// Whether this run is a part of the service.
    pub async fn is_part_of_service(&self) -> Result<bool> {
        self.ask_for(Request::ServiceIsPart).await
    }

    /// Refuses a service that could not be started again once it is stopped.
    pub async fn service_can_come_back(&self) -> Result<()> {
        self.call(Request::ServiceCanComeBack).await.map(drop)
    }

    /// Whether a run that was killed may have left the service stopped or held.
    pub async fn service_is_left_over(&self) -> Result<bool> {
        self.ask_for(Request::ServiceLeftOver).await
    }

    /// Stops the service if it runs; answers with warnings.
    pub async fn stop_service(&self) -> Result<Vec<String>> {
        self.warnings_of(Request::ServiceStop).await
    }

    /// Warnings about a unit that a killed run left stopped, and that the settings do not name any more.
    pub async fn former_services(&self) -> Result<Vec<String>> {
        self.warnings_of(Request::ServiceFormer).await
    }

    async fn warnings_of(&self, request: Request) -> Result<Vec<String>> {
        match self.call(request).await? {
            Answer::Warnings(warnings) => Ok(warnings),
            _ => Err(out_of_step()),
        }
    }

    /// Starts the service if [`Host::stop_service`] stopped it.
    pub async fn start_service(&self) -> Result<()> {
        self.call(Request::ServiceStart).await.map(drop)
    }

    async fn ask_for(&self, request: Request) -> Result<bool> {
        match self.call(request).await? {
            Answer::Yes(yes) => Ok(yes),
            _ => Err(out_of_step()),
        }
    }

    /// Starts the service if a killed run left it stopped; if that is said, one that did not start after a restore, too.
    pub async fn recover_service(&self, not_started: bool) -> Result<Recovered> {
        match self.call(Request::ServiceRecover { not_started }).await? {
            Answer::Recovered(found) => Ok(found),
            _ => Err(out_of_step()),
        }
    }

    /// Tells the service manager what is being done.
    pub async fn status(&self, text: &str, moves: bool) {
        // A message to the service manager never fails the work.
        let _ = self.call(Request::Status { text: text.to_owned(), moves }).await;
    }

    /// Makes the directory of the configured repository, where only root may. Nobody but the work knows whether there was
    /// a repository before, in whose place an empty directory would hide that it is gone.
    pub async fn make_repository_directory(&self) -> Result<()> {
        self.call(Request::MakeRepositoryDirectory).await.map(drop)
    }

    /// Asks on the terminal; `None` where there is none.
    pub async fn ask(&self, question: &str) -> Result<Option<String>> {
        match self.call(Request::Ask(question.to_owned())).await? {
            Answer::Line(line) => Ok(line),
            _ => Err(out_of_step()),
        }
    }
}

fn out_of_step() -> Error {
    Error::new(Kind::Attention, "the two processes of this run do not understand each other")
}

/// One end of the socket pair.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// Descriptors in one packet; the kernel's own limit is 253.
const DESCRIPTORS: usize = 200;

/// The largest message: the settings files.
const MESSAGE_LIMIT: usize = 160 * 1024;

impl Link {
    /// Both ends.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(Kind::Refused, "cannot make a socket pair")?;
        Ok((Self(one), Self(other)))
    }

    /// The end that standard input is, in a worker.
    pub fn from_stdin() -> Result<Self> {
        let descriptor = std::io::stdin().as_fd().try_clone_to_owned();
        Ok(Self(descriptor.context(Kind::Usage, "standard input is not the socket of a parent process")?))
    }

    /// The descriptor, to hand it to a child.
    #[must_use]
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends an answer, unless the other side leaves earlier ones unread: nobody has to wait for that.
    pub fn answer(&self, message: &impl Serialize) -> Result<()> {
        self.send_with(message, &[], SendFlags::DONTWAIT)
    }

    /// Sends a message with descriptors.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_with(message, descriptors, SendFlags::empty())
    }

    fn send_with(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> Result<()> {
        let failed = "cannot reach the other process of this run";
        // Of its whole size at once: growing would leave copies behind that are not wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MESSAGE_LIMIT));
        serde_json::to_writer(&mut *bytes, message).context(Kind::Attention, failed)?;
        if bytes.len() > MESSAGE_LIMIT {
            return Err(Error::new(Kind::Usage, "the settings files are too large")
                .with("size", format!("{} bytes, at most {MESSAGE_LIMIT}", bytes.len())));
        }
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut packets = descriptors.chunks(DESCRIPTORS);
        let first = packets.next().unwrap_or_default();
        self.send_packet(&bytes, first, &mut space, flags).context(Kind::Attention, failed)?;
        for packet in packets {
            self.send_packet(b"+", packet, &mut space, flags).context(Kind::Attention, failed)?;
        }
        Ok(())
    }

    fn send_packet(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        space: &mut [MaybeUninit<u8>],
        flags: SendFlags,
    ) -> std::result::Result<(), Errno> {
        let mut ancillary = SendAncillaryBuffer::new(space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::io::retry_on_intr(|| {
            sendmsg(&self.0, &[std::io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL | flags)
        })
        .map(drop)
    }

    /// Receives a message and the descriptors in its packet.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>)> {
        let (bytes, descriptors) = self.receive_packet()?;
        let message = serde_json::from_slice(&bytes).map_err(|_| out_of_step())?;
        Ok((message, descriptors))
    }

    /// Receives as many further descriptors as are still missing.
    pub fn receive_descriptors(&self, descriptors: &mut Vec<OwnedFd>, count: usize) -> Result<()> {
        while descriptors.len() < count {
            let (_, more) = self.receive_packet()?;
            if more.is_empty() {
                return Err(out_of_step());
            }
            descriptors.extend(more);
        }
        Ok(())
    }

    fn receive_packet(&self) -> Result<(Zeroizing<Vec<u8>>, Vec<OwnedFd>)> {
        let mut bytes = Zeroizing::new(vec![0; MESSAGE_LIMIT]);
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })
        .context(Kind::Attention, "cannot hear the other process of this run")?;
        if received.bytes == 0 {
            return Err(Error::new(Kind::Attention, "the other process of this run is gone"));
        }
        bytes.truncate(received.bytes);
        let descriptors = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect();
        Ok((bytes, descriptors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_descriptors_than_one_packet_holds_arrive_in_order() {
        let (one, other) = Link::pair().unwrap();
        let files: Vec<std::fs::File> = (0..450).map(|_| tempfile::tempfile().unwrap()).collect();
        for (number, file) in files.iter().enumerate() {
            file.set_len(number as u64).unwrap();
        }
        let descriptors: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        one.send(&"hello", &descriptors).unwrap();
        let (message, mut received) = other.receive::<String>().unwrap();
        other.receive_descriptors(&mut received, 450).unwrap();
        assert_eq!(message, "hello");
        let sizes: Vec<i64> = received.iter().map(|file| rustix::fs::fstat(file).unwrap().st_size).collect();
        assert_eq!(sizes, (0..450).collect::<Vec<i64>>());
    }
}

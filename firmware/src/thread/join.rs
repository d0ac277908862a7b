// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spawning and joining: a closure goes in at the top of the new stack, and its result comes out there.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use super::{STACK_SIZE, Thread, make_ready, prepare};
use crate::boot;
use crate::cpu;
use crate::smp::CpuSet;
use crate::stacks::{Stack, StackError, Use};

/// Most bytes that a closure, or its result, may have.
const MAX_CLOSURE: usize = 4096;

/// Why there is no thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpawnError {
    /// There is no such CPU.
    NoCpu(usize),
    /// The machine is not up yet.
    TooEarly,
    /// There is no stack.
    Stack(StackError),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCpu(cpu) => write!(f, "there is no CPU {cpu}"),
            Self::TooEarly => f.write_str("there are no threads yet"),
            Self::Stack(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SpawnError {}

/// What stands at the top of a thread's stack; the thread comes first, so that it leads to the rest.
#[repr(C, align(64))]
struct Packet<F, T> {
    thread: Thread,
    work: UnsafeCell<Work<F, T>>,
}

enum Work<F, T> {
    Function(F),
    Running,
    Result(T),
}

/// A thread that will be waited for. When dropped, it waits: a thread never outlives its handle.
#[derive(Debug)]
#[must_use = "dropped at once, it is waited for at once"]
pub struct JoinHandle<T> {
    thread: *const Thread,
    /// Takes the result out of the thread's packet.
    take: unsafe fn(*const Thread) -> Option<T>,
    stack: Option<Stack>,
    result: PhantomData<T>,
}

// SAFETY: the thread is only touched by its wait queue and, once it is done, by the one holder of the handle; the result
// may move between threads.
unsafe impl<T: Send> Send for JoinHandle<T> {}

/// Runs `function` as a thread on CPU `cpu`, and there only. The closure is kept in the thread's own stack; memory comes
/// from the page allocator and goes back there when the thread is joined. A panic in a thread is the machine's.
///
/// # Errors
///
/// [`SpawnError`].
pub fn spawn_on<F, T>(cpu: usize, function: F) -> Result<JoinHandle<T>, SpawnError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    const { assert!(size_of::<F>() <= MAX_CLOSURE && size_of::<T>() <= MAX_CLOSURE, "too large for a thread's stack") };
    const { assert!(align_of::<Packet<F, T>>() == 64, "alignments above 64 are not offered") };
    let machine = boot::machine().ok_or(SpawnError::TooEarly)?;
    let home = cpu::get(cpu).filter(|_| CpuSet::online().contains(cpu)).ok_or(SpawnError::NoCpu(cpu))?;
    let stack = Stack::new(&machine.memory, Use::Thread, STACK_SIZE, cpu, home.node()).map_err(SpawnError::Stack)?;
    let place = stack.top().as_raw() as usize - size_of::<Packet<F, T>>();
    let packet: *mut Packet<F, T> = core::ptr::with_exposed_provenance_mut(place);
    let thread = Thread::new(cpu, Some(run::<F, T>));
    // SAFETY: the top of a new stack: aligned, since the size is a multiple of the alignment, and nobody else's.
    unsafe { packet.write(Packet { thread, work: UnsafeCell::new(Work::Function(function)) }) };
    // SAFETY: as above; the rest of the stack is below.
    unsafe { prepare(packet.cast()) };
    // SAFETY: the thread stays where it is until it is done and its handle gives the stack back.
    make_ready(unsafe { &(*packet).thread });
    Ok(JoinHandle { thread: packet.cast(), take: take::<F, T>, stack: Some(stack), result: PhantomData })
}

/// # Safety
///
/// `thread` is the first field of a `Packet<F, T>`, and the thread that runs this.
unsafe fn run<F: FnOnce() -> T, T>(thread: *const Thread) {
    // SAFETY: the caller's promise.
    let work = unsafe { (*thread.cast::<Packet<F, T>>()).work.get() };
    // SAFETY: until the thread is done nobody else looks at the work.
    if let Work::Function(function) = unsafe { work.replace(Work::Running) } {
        let result = function();
        // SAFETY: as above; nothing is lost, since what stands there needs no drop.
        unsafe { work.write(Work::Result(result)) };
    }
}

/// # Safety
///
/// `thread` is the first field of a `Packet<F, T>` whose thread is done.
unsafe fn take<F, T>(thread: *const Thread) -> Option<T> {
    // SAFETY: the caller's promise.
    let work = unsafe { (*thread.cast::<Packet<F, T>>()).work.get() };
    // SAFETY: the thread is done, so this is the only one who looks.
    match unsafe { work.replace(Work::Running) } {
        Work::Result(result) => Some(result),
        Work::Function(_) | Work::Running => None,
    }
}

impl<T> JoinHandle<T> {
    /// Waits until the thread has ended; gives its memory back, and its result.
    pub fn join(mut self) -> T {
        match self.finish() {
            Some(result) => result,
            // A thread ends by putting its result there, or with the machine.
            None => unreachable!("a thread ended without a result"),
        }
    }

    /// Whether the thread has ended, so that [`join`](Self::join) would not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        // SAFETY: the thread is there as long as the handle has its stack.
        self.stack.is_some() && unsafe { (*self.thread).is_done.load(Ordering::Acquire) }
    }

    fn finish(&mut self) -> Option<T> {
        let stack = self.stack.take()?;
        // SAFETY: the stack, and the thread in it, are there until the end of this function.
        let thread = unsafe { &*self.thread };
        thread.joiners.wait_until(|| thread.is_done.load(Ordering::Acquire));
        // SAFETY: the thread is done; `take` was made for its packet.
        let result = unsafe { (self.take)(self.thread) };
        drop(stack);
        result
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        drop(self.finish());
    }
}

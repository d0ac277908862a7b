// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line, understood: parameters as Linux spells them where Linux has them.

use core::fmt;

use bsp::cmdline::{self, Param};
use mm::page_alloc::{Faults, Fill};
use mm::slab::{DebugSpec, FailSlab};

use crate::log::{self, Threshold};
use crate::memory::{Injected, NR_PATTERNS};
use crate::modules;
use crate::pr_info;

/// What the command line asks for.
#[derive(Debug, Default)]
pub struct Options<'a> {
    text: &'a str,
    /// `mem=SIZE`: use no more than this many bytes of RAM.
    pub mem: Option<u64>,
    /// `loglevel=N`, `quiet`, `debug`: what the console shows.
    pub threshold: Option<Threshold>,
    /// `ignore_loglevel`: the console shows everything.
    pub ignore_threshold: bool,
    /// `cma=SIZE`: bytes of the contiguous memory area, 0 for none; as the tree says if it is not given.
    pub cma: Option<u64>,
    /// `coherent_pool=SIZE`: RAM that is mapped uncached from the beginning, for devices that do not see the caches.
    pub coherent_pool: Option<u64>,
    /// `swiotlb=N`: slots of 2 KiB for bounce buffers.
    pub swiotlb: Option<u64>,
    /// `nohugevmalloc`: vmalloc maps by pages only.
    pub nohugevmalloc: bool,
    /// `log=defmt`, `log=defmt,PORT`: send structured records, to the console's port or to this one.
    pub records: Option<Option<&'a str>>,
    /// `memblock=debug`: list the boot-time memory regions.
    pub memblock_debug: bool,
    /// `memtest=N`, `memtest`: test free memory with so many patterns before it is used; never if 0.
    pub memtest: Option<u64>,
    /// `memtest_bad=ADDRESS,..`: words that it finds bad, whether or not they are.
    pub memtest_bad: Injected<'a>,
    /// `panic=N`: reboot N seconds after a failure; at once if negative; never if 0.
    pub panic_seconds: i32,
    /// `init_on_alloc=`, `init_on_free=`, `page_poison=`: what memory is filled with when it changes hands.
    pub fill: Fill,
    /// `fail_page_alloc=interval,probability,space,times`: page allocations that fail on purpose.
    pub faults: Option<Faults>,
    /// `maxcpus=N`, `nosmp`: use no more than this many CPUs.
    pub max_cpus: Option<usize>,
    /// `top=MS`: send what `make top` shows every so many milliseconds.
    pub top: Option<u64>,
    /// `run="command; command"`: console commands to run first.
    pub run: Option<&'a str>,
    /// `slab_tiny=0|1`: whether the slab saves memory first; by RAM for each CPU if it is not given.
    pub slab_tiny: Option<bool>,
    /// `slub_debug=LETTERS[,NAMES]`.
    pub slub_debug: DebugSpec<'a>,
    /// `failslab=INTERVAL,PROBABILITY,SPACE,TIMES`: allocations that fail on purpose.
    pub failslab: FailSlab,
}

impl<'a> Options<'a> {
    /// Reads `text`. What is not understood is left for [`Options::report`].
    #[must_use]
    pub fn read(text: &'a str) -> Self {
        let mut options = Self { text, ..Self::default() };
        for param in cmdline::params(text) {
            // The last one wins, as in Linux.
            match param.value {
                Some(value) if param.is("mem") => options.mem = cmdline::parse_size(value).or(options.mem),
                Some(value) if param.is("coherent_pool") => {
                    options.coherent_pool = cmdline::parse_size(value).or(options.coherent_pool);
                }
                Some(value) if param.is("cma") => options.cma = cmdline::parse_size(value).or(options.cma),
                Some(value) if param.is("swiotlb") => options.swiotlb = value.parse().ok().or(options.swiotlb),
                Some(value) if param.is("maxcpus") => options.max_cpus = value.parse().ok().or(options.max_cpus),
                None if param.is("nosmp") => options.max_cpus = Some(1),
                Some("debug") if param.is("memblock") => options.memblock_debug = true,
                Some(value) if param.is("loglevel") => options.threshold = threshold(value).or(options.threshold),
                Some(value) if param.is("log") => options.records = records(value).or(options.records),
                None if param.is("quiet") => options.threshold = Some(Threshold::QUIET),
                None if param.is("debug") => options.threshold = Some(Threshold::DEBUG),
                None if param.is("nohugevmalloc") => options.nohugevmalloc = true,
                None if param.is("ignore_loglevel") => options.ignore_threshold = true,
                None if param.is("memtest") => options.memtest = Some(NR_PATTERNS),
                Some(value) if param.is("memtest") => options.memtest = patterns(value).filter(|nr| *nr > 0),
                Some(value) if param.is("memtest_bad") => options.memtest_bad = Injected(Some(value)),
                Some(value) if param.is("panic") => {
                    options.panic_seconds = value.parse().unwrap_or(options.panic_seconds)
                }
                Some(value) if param.is("init_on_alloc") => {
                    options.fill.on_alloc = switch(value, options.fill.on_alloc)
                }
                Some(value) if param.is("init_on_free") => options.fill.on_free = switch(value, options.fill.on_free),
                Some(value) if param.is("page_poison") => options.fill.poison = switch(value, options.fill.poison),
                Some(value) if param.is("fail_page_alloc") => options.faults = Faults::parse(value).or(options.faults),
                Some(value) if param.is("top") => options.top = value.parse().ok().filter(|ms| *ms > 0).or(options.top),
                Some(value) if param.is("run") => options.run = Some(value),
                Some(value) if param.is("slab_tiny") => options.slab_tiny = is_on(value).or(options.slab_tiny),
                Some(value) if param.is("slub_debug") => {
                    options.slub_debug = DebugSpec::parse(value).unwrap_or(options.slub_debug);
                }
                None if param.is("slub_debug") => options.slub_debug = DebugSpec::parse("").unwrap_or_default(),
                Some(value) if param.is("failslab") => {
                    options.failslab = FailSlab::parse(value).unwrap_or(options.failslab);
                }
                _ => {}
            }
        }
        options
    }

    /// The whole line.
    #[must_use]
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// Sets the log up as the command line wants it.
    pub fn configure_log(&self) {
        if let Some(threshold) = self.threshold {
            log::set_threshold(threshold);
        }
        if self.ignore_threshold {
            log::ignore_threshold();
        }
    }

    /// Lists, once, what the command line has and this firmware does not know.
    pub fn report(&self) {
        pr_info!("command line: {}", if self.text.is_empty() { "(empty)" } else { self.text });
        if Unknown(self.text).params().next().is_some() {
            pr_info!("command line: unknown or without sense:{}", Unknown(self.text));
        }
    }
}

/// A switch as Linux's `kstrtobool` reads it; `None` if it is none.
fn is_on(value: &str) -> Option<bool> {
    match value {
        "1" | "y" | "Y" | "t" | "T" | "on" => Some(true),
        "0" | "n" | "N" | "f" | "F" | "off" => Some(false),
        _ => None,
    }
}

fn switch(value: &str, before: bool) -> bool {
    is_on(value).unwrap_or(before)
}

/// The parameters of a command line that nobody reads.
struct Unknown<'a>(&'a str);

impl<'a> Unknown<'a> {
    fn params(&self) -> impl Iterator<Item = Param<'a>> {
        cmdline::params(self.0).filter(|param| !is_known(param))
    }
}

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for param in self.params() {
            match param.value {
                Some(value) => write!(f, " {}={value}", param.key)?,
                None => write!(f, " {}", param.key)?,
            }
        }
        Ok(())
    }
}

/// Passes of a memory test; a pattern may come more than once.
fn patterns(value: &str) -> Option<u64> {
    value.parse().ok().filter(|nr| *nr <= 1000)
}

fn threshold(value: &str) -> Option<Threshold> {
    value.parse().ok().map(Threshold::new)
}

/// The port, if one is named, behind the only format that there is.
fn records(value: &str) -> Option<Option<&str>> {
    match value.split_once(',') {
        Some(("defmt", port)) => Some(Some(port)),
        None if value == "defmt" => Some(None),
        _ => None,
    }
}

/// Parameters that are on or off.
const SWITCHES: [&str; 4] = ["init_on_alloc", "init_on_free", "page_poison", "slab_tiny"];

/// Whether somebody reads this parameter; `console=` is read where the console is chosen.
fn is_known(param: &Param<'_>) -> bool {
    let is_ours = match param.value {
        Some(value) if ["mem", "coherent_pool", "cma"].iter().any(|name| param.is(name)) => {
            cmdline::parse_size(value).is_some()
        }
        Some(value) if param.is("memtest") => patterns(value).is_some(),
        Some(value) if param.is("memtest_bad") => value.split(',').all(|text| cmdline::parse_size(text).is_some()),
        Some(value) if param.is("loglevel") => threshold(value).is_some(),
        Some(value) if param.is("log") => records(value).is_some(),
        Some(value) if param.is("panic") => value.parse::<i32>().is_ok(),
        Some(value) if SWITCHES.iter().any(|name| param.is(name)) => is_on(value).is_some(),
        Some(value) if param.is("fail_page_alloc") => Faults::parse(value).is_some(),
        Some(value) if param.is("slub_debug") => DebugSpec::parse(value).is_ok(),
        Some(value) if param.is("failslab") => FailSlab::parse(value).is_some(),
        Some(value) if param.is("top") => value.parse::<u64>().is_ok_and(|ms| ms > 0),
        Some(value) if param.is("maxcpus") || param.is("swiotlb") => value.parse::<usize>().is_ok(),
        Some(value) => param.is("run") || param.is("console") || (param.is("memblock") && value == "debug"),
        None => {
            let flags = ["nosmp", "memtest", "slub_debug", "nohugevmalloc", "quiet", "debug", "ignore_loglevel"];
            flags.iter().any(|name| param.is(name))
        }
    };
    is_ours || modules::accepts(param)
}

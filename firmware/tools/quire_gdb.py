# SPDX-License-Identifier: MIT OR Apache-2.0
"""gdb commands that read Quire's own data structures from the memory of a target, running or crashed.

    quire buddy            free blocks by zone and order, as buddyinfo
    quire slab             caches, as slabinfo
    quire vmalloc          areas, as vmallocinfo
    quire tables [ADDRESS] the tree that TTBR1 names, or the way to one address
    quire bt [FRAME]       who called whom, by the frame records from x29 (or FRAME) on

Nothing of the target runs: types come from the debug information (the image of profile `gdb`), tables and tags from
raw memory through the direct map. A lock that is held is said, since what it guards may be half changed.
"""

import gdb

PAGE = 4096
DIRECT_MAP = 0xFFFF_0000_0000_0000
MASK64 = (1 << 64) - 1
ADDRESS = 0x0000_FFFF_FFFF_F000


class Absent(Exception):
    """The target has not come so far, or this is not its image."""


# Values as the debug information describes them.

def base_name(type_):
    """`mm::slab::Slab<A, S>` -> `Slab`."""
    return str(type_.strip_typedefs().name).split("<")[0].split("::")[-1]


def fields(value):
    type_ = value.type.strip_typedefs()
    if type_.code not in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        return []
    # What the variant of an enumeration has is behind what all of them share.
    return [value[field] for field in type_.fields() if not field.artificial and field.name]


def inside(value, name):
    """The nearest value of type `name` within wrappers such as locks, cells and options."""
    level = [value]
    while level:
        for found in level:
            if base_name(found.type) == name:
                return found
        level = [inner for outer in level for inner in fields(outer)]
    raise Absent(f"no {name} in {value.type}")


def number(value):
    """The one number that a value wraps."""
    while value.type.strip_typedefs().code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        inner = [field for field in fields(value) if field.type.sizeof]
        if not inner:
            raise Absent(f"no number in {value.type}")
        value = inner[0]
    return int(value)


def elements(slice_):
    data = slice_["data_ptr"]
    return [(data + index).dereference() for index in range(int(slice_["length"]))]


def items(array):
    low, high = array.type.strip_typedefs().range()
    return [array[index] for index in range(low, high + 1)]


def text(value):
    return gdb.selected_inferior().read_memory(int(value["data_ptr"]), int(value["length"])).tobytes().decode()


def static(name):
    try:
        return gdb.parse_and_eval(name)
    except gdb.error:
        raise Absent(f"no {name}: is this the image of profile `gdb`?") from None


def once(value):
    """What a `spin::Once` holds; None before it does."""
    cell = inside(value, "Once")
    # Status: 0 is incomplete, 1 running, 2 complete.
    return cell["data"] if number(cell["status"]) == 2 else None


def warn_if_locked(lock, what):
    if number(inside(lock, "SpinMutex")["lock"]):
        print(f"# the lock of {what} is held: what follows may be half changed")


# Memory as it is.

def words(address, count):
    raw = gdb.selected_inferior().read_memory(address & MASK64, count * 8).tobytes()
    return [int.from_bytes(raw[at:at + 8], "little") for at in range(0, len(raw), 8)]


def frame_words(phys, first=0, count=1):
    return words(DIRECT_MAP + phys + first * 8, count)


def register(name):
    return int(gdb.parse_and_eval(f"${name}")) & MASK64


# The page allocator.

def slab():
    found = once(static("firmware::allocators::SLAB"))
    if found is None:
        raise Absent("there is no slab yet")
    return inside(found, "Slab")


def pages():
    return slab()["source"].dereference()


def blocks_of_row(row, levels):
    """Free blocks of each level in a row of units, a bit each (mm/src/buddy/row.rs)."""
    begins = [MASK64, 0x5555555555555555, 0x1111111111111111, 0x0101010101010101, 0x0001000100010001,
              0x0000000100000001, 1]
    runs = [row]
    for level in range(1, 7):
        runs.append(runs[-1] & runs[-1] >> (1 << (level - 1)) & begins[level])
    counts = [bin(run).count("1") for run in runs] + [0]
    return [counts[level] - 2 * counts[level + 1] for level in range(levels)]


# Words of a chunk beside its head (mm/src/buddy/chunk.rs).
CHUNK_WORDS = 19


def free_blocks(head, chunk):
    """Free blocks of each order in a chunk of 1024 frames (mm/src/buddy/chunk.rs)."""
    nr_free = [0] * 11
    if head & 0xF == 0:
        return nr_free
    if not head >> 7 & 1:
        nr_free[10] = 1
        return nr_free
    for row in chunk[3:19]:
        nr_free[:6] = map(sum, zip(nr_free, blocks_of_row(row, 6)))
    nr_free[6:] = blocks_of_row(chunk[1] >> 32, 5)
    return nr_free


def buddy():
    zones = {}
    for slot in elements(inside(pages()["zones"], "Zones")["cells"]):
        cell = once(slot)
        if cell is None:
            break
        cell = inside(cell, "ZoneCell")
        zone = inside(cell["zone"], "Zone")
        kind = str(zone["kind"]).split("::")[-1]
        warn_if_locked(cell["zone"], f"zone {kind}")
        chunks = zone["buddy"]["chunks"]
        length = int(chunks["heads"]["length"])
        heads = words(int(chunks["heads"]["data_ptr"]), length)
        raw = words(int(chunks["words"]["data_ptr"]), length * CHUNK_WORDS)
        total = zones.setdefault((int(zone["node"]), kind.replace("Dma", "DMA")), [0] * 11)
        for at in range(length):
            total[:] = map(sum, zip(total, free_blocks(heads[at], raw[at * CHUNK_WORDS:(at + 1) * CHUNK_WORDS])))
    for (node, kind), nr_free in zones.items():
        print(f"Node {node}, zone {kind:>8} " + "".join(f"{count:>6} " for count in nr_free))


# The slab.

def heap_bytes(heap):
    """Bytes in use: the frames' room without the free blocks (mm/src/slab/heap.rs)."""
    free = 0
    for bins in items(heap["groups"]):
        secret = int(bins["secret"])
        for head in items(bins["heads"]):
            node = int(head)
            while node:
                granule, base = node % PAGE // 8, node - node % PAGE
                starts = sum(word << 64 * at for at, word in enumerate(words(base, 8)))
                behind = starts >> (granule + 1)
                free += (behind & -behind).bit_length() if behind else 512 - granule
                node = words(node, 1)[0] ^ secret
    return (int(heap["nr_frames"]) * 500 - free) * 8


def slab_caches():
    machine = slab()
    warn_if_locked(machine["heap"], "the packed heap")
    heap = inside(machine["heap"], "Heap")
    objects = int(heap["nr_objects"])
    size = heap_bytes(heap) // objects if objects else 0
    yield "kmalloc-packed", objects, objects, size, PAGE // size if size else 0, 1, int(heap["nr_frames"])
    for slot in items(machine["caches"]):
        pointer = slot["p"]["value"] if "p" in [f.name for f in slot.type.fields()] else slot
        while pointer.type.strip_typedefs().code != gdb.TYPE_CODE_PTR:
            pointer = fields(pointer)[0]
        if not int(pointer):
            continue
        inner = pointer.dereference()
        name = text(inner["spec"]["name"])
        warn_if_locked(inner["slabs"], name)
        slabs, cut = inside(inner["slabs"], "Slabs"), inner["cut"]
        per_slab, nr_slabs = int(cut["nr"]), int(slabs["nr_slabs"])
        yield (name, int(slabs["nr_taken"]), nr_slabs * per_slab, int(cut["stride"]), per_slab,
               1 << number(cut["order"]), nr_slabs)


def slabs():
    for name, active, objects, size, per_slab, nr_pages, nr_slabs in slab_caches():
        print(f"{name:<17} {active:6} {objects:6} {size:6} {per_slab:4} {nr_pages:4}"
              f" : tunables    0    0    0 : slabdata {nr_slabs:6} {nr_slabs:6}      0")


# vmalloc.

NO_PAGE = 0xFFFF_FFFF
KINDS = [" vmalloc", " vmalloc user", " vmap", " ioremap", "", "", " vm_map_ram", ""]


class Tags:
    """A word a page, in frames below a table of tables (mm/src/vmalloc/tags.rs)."""

    LEAF = 504

    def __init__(self, tags):
        self.top, self.leaves = number(tags["top"]), {}

    def leaf(self, index):
        if index not in self.leaves:
            root = frame_words(self.top, index // 512)[0]
            leaf = root and frame_words(root & ~1, index % 512)[0]
            self.leaves[index] = frame_words(leaf & ~1, 0, 512) if leaf else None
        return self.leaves[index]

    def get(self, page):
        leaf = self.leaf(page // self.LEAF)
        return leaf[page % self.LEAF] if leaf else 0


def vmalloc():
    found = once(static("firmware::allocators::AREAS"))
    if found is None:
        raise Absent("there is no vmalloc yet")
    machine = inside(found, "Vmalloc")
    lazy = []
    for region in regions(machine):
        warn_if_locked(region["state"], "a region of vmalloc")
        try:
            state = inside(region["state"], "State")
        except Absent:
            continue
        lazy += areas(state)
    for start, size in lazy[:64]:
        line(start, size, " unpurged vm_area")


def regions(machine):
    """The first, and the others that are in use (mm/src/vmalloc/region.rs)."""
    yield machine["first"]
    for slot in items(machine["more"]):
        pointer = slot
        while pointer.type.strip_typedefs().code != gdb.TYPE_CODE_PTR:
            pointer = fields(pointer)[0]
        if int(pointer):
            yield pointer.dereference()


def areas(state):
    """Prints a region's areas; addresses and sizes of what waits."""
    start, space = number(state["start"]), state["space"]
    tags, end = Tags(space["tags"]), int(space["pages"])
    page = 0
    while page < end:
        word = tags.get(page)
        length = (word & 0xFFFF_FFF8) >> 3
        if not length:
            print(f"# no block begins at page {page:#x}: the tags are damaged")
            break
        if word & 3 == 2:
            area(tags, start, page, word)
        page += length
    for page in lazy_pages(state, tags):
        length = (tags.get(page) & 0xFFFF_FFF8) >> 3
        yield start + page * PAGE, (length - 2) * PAGE


def area(tags, start, page, word):
    kind, caller, extent = word >> 32 & 7, tags.get(page + 1), tags.get(page + 2)
    asked, mapped = extent & (1 << 38) - 1, extent >> 38
    size = max(mapped * PAGE, (asked + PAGE - 1) // PAGE * PAGE) + PAGE
    rest = f" {symbol(caller, 1)}" if caller else ""
    if kind != 3 and mapped:
        rest += f" pages={mapped}"
    if kind == 3:
        rest += f" phys={tags.get(page + 3):#018x}"
    line(start + page * PAGE, size, rest + KINDS[kind])


def line(start, size, rest):
    print(f"{start:#018x}-{(start + size) & MASK64:#018x} {size:>7}{rest}")


def chain(tags, page):
    while page != NO_PAGE:
        yield page
        page = tags.get(page) >> 32


def lazy_pages(state, tags):
    ends = state["lazy"]["ends"]
    try:
        first, _ = [int(end) for end in fields(pair_in(ends))]
        yield from chain(tags, first)
    except Absent:
        pass
    for age in ("young", "old"):
        for head in items(state["shelf"][age]["heads"]):
            yield from chain(tags, int(head))
    if int(state["dying"]["pages"]):
        yield from chain(tags, number(state["dying"]["first"]))


def pair_in(option):
    """The pair that an option holds."""
    level = [option]
    while level:
        for found in level:
            inner = fields(found)
            if len(inner) == 2 and all(field.type.code == gdb.TYPE_CODE_INT for field in inner):
                return found
        level = [inner for outer in level for inner in fields(outer)]
    raise Absent("nothing is in it")


# Translation tables.

def leaves(table, level, base):
    size = 1 << 39 - 9 * level
    for index, entry in enumerate(frame_words(table, 0, 512)):
        if not entry & 1:
            continue
        virt = base + index * size
        if level < 3 and entry & 2:
            yield from leaves(entry & ADDRESS, level + 1, virt)
        else:
            yield virt, entry & ADDRESS & -size, entry & ~ADDRESS, size


def root():
    ttbr1 = register("TTBR1_EL1") & ADDRESS
    if not ttbr1:
        raise Absent("TTBR1_EL1 is 0: the MMU is not on yet")
    return ttbr1


def tables(address=None):
    if address is not None:
        return way_to(address)
    print(f"TTBR1_EL1 {root():#x}")
    run = None
    for virt, phys, bits, size in leaves(root(), 0, 0xFFFF_0000_0000_0000):
        if run and (run[3], run[4]) == (bits, size) and (run[0] + run[2], run[1] + run[2]) == (virt, phys):
            run[2] += size
            continue
        show(run)
        run = [virt, phys, size, bits, size]
    show(run)


def show(run):
    if run:
        virt, phys, length, bits, size = run
        unit = {1 << 30: "1G", 1 << 21: "2M", 1 << 12: "4K"}.get(size, "512G")
        contiguous = "CONT" if bits >> 52 & 1 else "    "
        print(f"{virt:#018x}-{(virt + length) & MASK64:#018x} {phys:#14x} {length // 1024:>11}K {length // size:>6} x {unit}"
              f" {contiguous} {permissions(bits)}")


def permissions(bits):
    write = "RO" if bits >> 7 & 1 else "RW"
    execute = "NX" if bits >> 53 & 1 else "X "
    user = " EL0" if bits >> 6 & 1 else ""
    global_ = " nG" if bits >> 11 & 1 else ""
    return f"{write} {execute}  attribute {bits >> 2 & 7}, shareability {bits >> 8 & 3}{user}{global_}"


def way_to(address):
    table = root()
    for level in range(4):
        index = address >> 39 - 9 * level & 511
        entry = frame_words(table, index)[0]
        if not entry & 1:
            return print(f"  level {level} entry {index:>3} of the table at {table:#x}: {entry:#018x} nothing")
        if level < 3 and entry & 2:
            print(f"  level {level} entry {index:>3} of the table at {table:#x}: {entry:#018x} table")
            table = entry & ADDRESS
            continue
        size = 1 << 39 - 9 * level
        phys = (entry & ADDRESS & -size) + address % size
        return print(f"  level {level} entry {index:>3} of the table at {table:#x}: {entry:#018x} "
                     f"{permissions(entry & ~ADDRESS)} -> {phys:#x}")


# Calls.

def symbol(address, back=0):
    """`function+0x1c/0x40`, as the console has it; `back` is 1 for return addresses."""
    block = gdb.block_for_pc((address - back) & MASK64)
    while block is not None and (block.function is None or is_inlined(block)):
        block = block.superblock
    if block is None:
        return f"{address:#x}"
    return f"{block.function.name}+{address - block.start:#x}/{block.end - block.start:#x}"


def is_inlined(block):
    """A block of a function that was inlined lies within another function's."""
    outer = block.superblock
    while outer is not None and not outer.is_global and not outer.is_static:
        if outer.function is not None:
            return True
        outer = outer.superblock
    return False


def where(address):
    place = gdb.find_pc_line(address)
    return f"{place.symtab.filename}:{place.line}" if place.symtab else ""


def backtrace(record=None):
    if record is None:
        record, pc = register("x29"), register("pc")
        print(f" <{pc:016x}>  {symbol(pc)}  {where(pc)}")
    for _ in range(1024):
        try:
            record_above, pc = words(record, 2)
        except gdb.MemoryError:
            return print(f" no record can be read at {record:#x}")
        if pc == 0:
            return None
        print(f"[<{pc:016x}>] {symbol(pc, 1)}  {where(pc - 1)}")
        if record_above == 0:
            return None
        record = record_above
    return print(" and more")


COMMANDS = {"buddy": buddy, "slab": slabs, "vmalloc": vmalloc, "tables": tables, "bt": backtrace}


class Quire(gdb.Command):
    __doc__ = __doc__

    def __init__(self):
        super().__init__("quire", gdb.COMMAND_DATA)

    def complete(self, _text, word):
        return [name for name in COMMANDS if name.startswith(word)]

    def invoke(self, argument, _from_tty):
        name, *rest = argument.split() or [""]
        if name not in COMMANDS:
            raise gdb.GdbError(f"quire {' | '.join(COMMANDS)}")
        if rest and name not in ("tables", "bt"):
            raise gdb.GdbError(f"quire {name} takes no argument")
        try:
            COMMANDS[name](*(int(gdb.parse_and_eval(value)) & MASK64 for value in rest))
        except Absent as why:
            raise gdb.GdbError(f"quire {name}: {why}") from None
        except gdb.MemoryError as why:
            raise gdb.GdbError(f"quire {name}: {why} (is the MMU on?)") from None


Quire()

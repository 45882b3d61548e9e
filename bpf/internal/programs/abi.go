// Package programs is the kernel side: the BPF programs in C, the objects made of them, and the shapes and numbers that both sides
// know. It knows nothing of how they are loaded, attached or read.
package programs

// The shapes both sides know are made from abi.h by bpf2go, under the name of the object they came with; here are their own.

type (
	// Announcement is a record of the ring buffer.
	Announcement = TracepointAnnouncement
	// Cached is an entry of a CPU's cache.
	Cached = TracepointCached
	// Cache is one page of it.
	Cache = TracepointCachePage
	// CgroupRecord is what is noted of a cgroup.
	CgroupRecord = TracepointCgroupRecord
	// HeldLook is how far a look at what processes hold has come.
	HeldLook = HeldHeldLook
	// HeldName is the name of a slot.
	HeldName = HeldHeldName
	// HeldSlot counts processes by what they hold.
	HeldSlot = HeldHeldSlot
	// Fallback is what the kernel asks for after a denial.
	Fallback = TracepointFallback
	// Layout says where return addresses stand on the stack.
	Layout = TracepointLayout
	// Page is one of a CPU's pages.
	Page = TracepointPage
	// Pair is a confirmed way to cap_capable.
	Pair = TracepointPair
	// Place is where a capability is denied.
	Place = TracepointPlace
	// Probe is without which capabilities a kernel function goes on.
	Probe = TracepointProbe
	// Sample is a stack for the learner.
	Sample = TracepointSample
	// SettingValues are what user space tells the kernel side.
	SettingValues = TracepointSettingValues
	// SiteRecord is what is noted of a site slot.
	SiteRecord = TracepointSiteRecord
	// StatValues are a CPU's statistics.
	StatValues = TracepointStatValues
	// WhoKey is who asks.
	WhoKey = TracepointWhoKey
	// WhoRecord is what is noted of a who slot.
	WhoRecord = TracepointWhoRecord
)

// The numbers of abi.h. TestABI compares them with the object's BTF.
const (
	Capabilities = 64
	SymbolSize   = 128
	PageSlots    = 512
	StatPage     = 0
	CachePage    = 1
	SitePage     = 33
	PendingBits  = 20
	SlotBits     = 22
	PairBits     = 7

	WhatDenied      = 1 << 6
	WhatUserNS      = 1 << 7
	WhatClassShift  = 8
	WhatKindShift   = 10
	WhatKind        = 3
	WhatProbe       = 1 << 12
	WhatAfterShift  = 13
	WhatBeforeShift = 20
	WhatPart        = 1<<15 - 1

	SiteFixed   = 1 << 10
	WhoBorrowed = 1 << 8
	WhoFixed    = 1 << 9

	HeldAll   = Capabilities
	HeldSlots = 1 << 11
	HeldMost  = 3 << 9
	HeldNames = 16
)

// The classes of checks.
const (
	ClassUnknown = iota
	ClassNoAudit
	ClassAudited
)

// The kinds of processes.
const (
	KindFile = iota
	KindKernel
	KindExiting
	KindOther
)

// PoolGranted is the pool of what is granted on the host; the other is 0.
const PoolGranted = 1

// The roles of kernel functions.
const (
	RoleNone = iota
	RoleCapable
	RoleIterator
	RoleSecurity
	RoleAudited
	RoleNoAudit
	RoleByCaller
	RoleCallerAudited
	RoleCallerNoAudit
)

// PathInSockaddr says that a system call's argument is the address of a socket.
const PathInSockaddr = 8

// Where, in the table of system calls, those of 32-bit programs and io_uring's requests begin.
const (
	CallsCompat = 512
	CallsUring  = 1024
)

// Pending reads how many checks an entry of a cache has for its slots. Only audited ones have a who slot.
func Pending(c *Cached) (n uint64, site, who uint32, audited bool) {
	site = uint32(c.Counted>>PendingBits) % (1 << SlotBits)
	who = uint32(c.Counted >> (PendingBits + SlotBits)) // plus one
	return c.Counted % (1 << PendingBits), site, who - 1, who != 0
}

// KindOf is the kind of a slot's process, one of KindFile and its like.
func KindOf(r *WhoRecord) uint8 { return uint8(r.Key.What >> WhatKindShift & WhatKind) }

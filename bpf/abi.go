package bpf

// The shapes both sides know are made from abi.h by bpf2go, under the name of the object they came with; here are their own.
type (
	announcementRecord = tracepointAnnouncement
	cached             = tracepointCached
	cachePageValues    = tracepointCachePage
	cgroupKey          = tracepointCgroupKey
	cgroupRecord       = tracepointCgroupRecord
	layout             = tracepointLayout
	page               = tracepointPage
	pair               = tracepointPair
	sample             = tracepointSample
	settingValues      = tracepointSettingValues
	siteRecord         = tracepointSiteRecord
	statValues         = tracepointStatValues
	whoRecord          = tracepointWhoRecord
)

// The numbers of abi.h. TestABI compares them with the object's BTF.
const (
	capabilities = 64
	symbolSize   = 128
	pageSlots    = 512
	statPage     = 0
	cachePage    = 1
	sitePage     = 5
	pendingBits  = 20
	slotBits     = 22
	pairBits     = 7

	whatDenied         = 1 << 6
	whatUserNS         = 1 << 7
	whatClassShift     = 8
	whatKindShift      = 10
	whatKind           = 3
	whatHierarchyShift = 12
	whatHierarchy      = 1<<8 - 1

	siteFixed   = 1 << 10
	whoBorrowed = 1 << 8
	whoFixed    = 1 << 9
)

const (
	classUnknown = iota
	classNoAudit
	classAudited
)

const (
	kindFile = iota
	kindKernel
	kindExiting
)

const (
	roleNone = iota
	roleCapable
	roleIterator
	roleSecurity
	roleAudited
	roleNoAudit
	roleByCaller
	roleCallerAudited
	roleCallerNoAudit
)

// checkOf reads a what without its class, see WHAT_ in abi.h.
func checkOf(what uint32) Check {
	return Check{
		Capability: uint8(what % capabilities),
		Denied:     what&whatDenied != 0,
		UserNS:     what&whatUserNS != 0,
	}
}

func auditedOf(what uint32) Audited {
	switch what >> whatClassShift & 3 {
	case classNoAudit:
		return AuditedNo
	case classAudited:
		return AuditedYes
	}
	return AuditedUnknown
}

package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"capability_exporter/bpf/internal/programs"
)

// An LSM is a security module besides the kernel's own for capabilities, which is asked what that one has granted and may refuse it.
type LSM struct {
	Name    string
	active  func(sys string) (bool, error)
	program func(*btf.Spec) string // "": none for this kernel
	missing string                 // what program looks for
}

const tracepointSELinux = "selinux_audited"

// LSMs lists those whose refusals there is a program for.
func LSMs() []LSM {
	return []LSM{{
		Name: "selinux",
		active: func(sys string) (bool, error) { // the mount point is there if it is
			_, err := os.Stat(filepath.Join(sys, "fs/selinux"))
			return err == nil, unlessAbsent(err)
		},
		program: func(kernel *btf.Spec) string {
			if hasTypedef(kernel, "btf_trace_"+tracepointSELinux) {
				return "selinux"
			}
			return ""
		},
		missing: "the tracepoint " + tracepointSELinux + " (Linux 5.10 and later)",
	}, {
		Name: "apparmor",
		active: func(sys string) (bool, error) {
			enabled, err := os.ReadFile(filepath.Join(sys, "module/apparmor/parameters/enabled"))
			return strings.TrimSpace(string(enabled)) == "Y", unlessAbsent(err)
		},
		program: programAppArmor,
		missing: "the function aa_capable, of a shape that is known, in its BTF",
	}}
}

func unlessAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// programAppArmor is the one for what aa_capable is given.
func programAppArmor(kernel *btf.Spec) string {
	var fn *btf.Func
	if err := kernel.TypeByName("aa_capable", &fn); err != nil {
		return ""
	}
	given, is := fn.Type.(*btf.FuncProto)
	if !is {
		return ""
	}
	var names []string
	for _, p := range given.Params {
		names = append(names, p.Name)
	}
	switch {
	case slices.Equal(names, []string{"subj_cred", "label", "cap", "opts"}):
		return "apparmor"
	case slices.Equal(names, []string{"label", "cap", "opts"}): // up to 6.6
		return "apparmor_label"
	}
	return ""
}

// Active tells whether the kernel asks it, by what is in /sys: of securityfs, which lists them, nothing is seen in a container.
func (l LSM) Active(sys string) (bool, error) {
	active, err := l.active(sys)
	if err != nil {
		return false, fmt.Errorf("look whether %s is active: %w", l.Name, err)
	}
	return active, nil
}

// Open loads what sees its refusals, with tables of its own.
func (l LSM) Open(f *Features, opts Options) (*Objects, error) {
	name := l.program(f.kernel)
	if name == "" {
		return nil, fmt.Errorf("%w: %s", errAbsent, l.missing)
	}
	spec, err := programs.LoadLSM()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	wanted := []string{name, programRelease}
	if f.rmdir {
		wanted = append(wanted, programGone)
	}
	used := map[string]bool{"free_whos": true, "free_kept": true, "shares": true}
	for name, p := range spec.Programs {
		if !slices.Contains(wanted, name) {
			delete(spec.Programs, name)
			continue
		}
		p.KernelVersion = anyVersion
		for i := range p.Instructions {
			if ins := &p.Instructions[i]; ins.IsLoadFromMap() {
				used[ins.Reference()] = true
			}
		}
	}
	for name := range spec.Maps {
		if !used[name] { // of the headers, for sources
			delete(spec.Maps, name)
		}
	}
	if err := sizeLSM(spec, f, opts); err != nil {
		return nil, err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: f.kernel}})
	if err != nil {
		return nil, fmt.Errorf("load the BPF object: %w", err)
	}
	return &Objects{Collection: c, Programs: []*ebpf.Program{c.Programs[name]}}, nil
}

// sizeLSM is size for the tables of an LSM: of the pages of each CPU, they have the statistics alone.
func sizeLSM(spec *ebpf.CollectionSpec, f *Features, opts Options) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	if err := setSizes(spec, map[string]int{
		"pages":       cpus,
		"free_whos":   opts.SeriesLimit,
		"free_kept":   opts.SeriesLimit,
		"shares":      opts.SeriesLimit + 4*cpus,
		"who_records": programs.WhoFixed + opts.SeriesLimit,
		"refusals":    programs.WhoFixed + opts.SeriesLimit,
		"whos":        opts.SeriesLimit + 4*cpus,
		"cgroups":     opts.SeriesLimit + 4*cpus,
		"ring":        opts.RingSize,
		"gone":        opts.GoneSize,
	}); err != nil {
		return err
	}
	if err := setVariables(spec, map[string]any{
		"has_pt_regs":  number(f.PtRegs),
		"denial_burst": opts.DenialBurst,
		"name_mask":    opts.NameMask,
		"slots":        [2]uint32{uint32(opts.SeriesLimit - opts.SeriesKept), uint32(opts.SeriesKept)},
	}); err != nil {
		return err
	}
	var v programs.SettingValues
	if err := spec.Variables["settings"].Get(&v); err != nil {
		return fmt.Errorf("read the BPF object's settings: %w", err)
	}
	v.BankPages, v.CpuPages = 1, 1
	v.Seed, v.NameSeed = opts.Seed, opts.NameSeed
	return setVariables(spec, map[string]any{"settings": v})
}

func attachSELinux(p *ebpf.Program) (link.Link, error) {
	return link.AttachRawTracepoint(link.RawTracepointOptions{Name: tracepointSELinux, Program: p})
}

package programs

// Run by `make generate`, which sets the pinned compiler and BPF_HEADERS, where cilium/ebpf keeps its libbpf headers.
// The types are those of abi.h; abi.go names them.

//go:generate go tool bpf2go -target amd64,arm64 -no-global-types -cflags "-O2 -Wall -Werror -mcpu=v3 -I$BPF_HEADERS" -type who_key -type who_record -type site_record -type cgroup_record -type layout -type pair -type setting_values -type sample -type announcement -type stat_values -type page -type cached -type cache_page -type place -type fallback -type probe Tracepoint tracepoint.bpf.c
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types -cflags "-O2 -Wall -Werror -mcpu=v3 -I$BPF_HEADERS" Fexit fexit.bpf.c
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types -cflags "-O2 -Wall -Wno-unused-function -Werror -mcpu=v3 -I$BPF_HEADERS" LSM lsm.bpf.c
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types -cflags "-O2 -Wall -Werror -mcpu=v3 -I$BPF_HEADERS" -type held_slot -type held_name -type held_look Held held.bpf.c

package bpf

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// helpers are what this test binary does when it is started as another program.
func helpers() map[string]func(args []string) error {
	return map[string]func([]string) error{
		"row":         makeRow,
		"aside":       makeAside,
		"refused":     refused,
		"sethostname": askSysAdmin,
		"fork":        forkMany,
		"wait":        waitAndAsk,
		"storm":       storm,
		"open":        openAndLook,
		"read":        readFile,
		"access":      askAccess,
		"thread":      askInThread,
		"iouring":     openInWorker,
		"turns":       askInTurns,
		"broad":       broadCalls,
		"traced":      beTraced,
		"pagemap":     readPagemap,
		"interrupted": interrupted,
		"round":       passRound,
		"askwhentold": askWhenTold,
		"watch":       watch,
		"inside":      inside,
		"watchintime": watchInTime,
		"unheard":     watchUnheard,
		"asking":      askOnAndOn,
		"opens":       openOften,
		"tun":         openTun,
		"bothrights":  readBoth,
		"moved":       askWhileMoved,
		"race":        askAtOnce,
		"bytwo":       askByTwo,
		"attack":      attack,
		"denied":      callDenied,
		"pipes":       takePipes,
		"confined":    askConfined,
		"lookinside":  lookInside,
	}
}

// stayOn keeps the calling thread, which its goroutine must be locked to, on one CPU.
func stayOn(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("sched_setaffinity: %w", err)
	}
	return nil
}

// askSysAdmin makes one check of CAP_SYS_ADMIN, or as many as it is told, and changes nothing.
func askSysAdmin(args []string) error {
	n := 1
	if len(args) > 0 {
		var err error
		if n, err = strconv.Atoi(args[0]); err != nil {
			return err
		}
	}
	for range n {
		if err := syscall3(unix.SYS_SETHOSTNAME, 0, ^uintptr(0), 0); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("sethostname: %w", err)
		}
	}
	return nil
}

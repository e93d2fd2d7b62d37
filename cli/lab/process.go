package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// process identifies a running process so that a reused PID is not mistaken
// for it: the kernel's start time goes with the number.
type process struct {
	PID       int    `json:"pid"`
	StartTime string `json:"startTime"`
}

// startTime reads field 22 of /proc/PID/stat; the fields are counted after the
// command name, which may hold spaces.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("read process %d: %w", pid, err)
	}
	_, rest, ok := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return "", fmt.Errorf("read process %d: unexpected stat line", pid)
	}
	if fields[0] == "Z" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return fields[19], nil
}

func recordProcess(path string, pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(process{PID: pid, StartTime: start})
	if err != nil {
		return fmt.Errorf("encode process record: %w", err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("write process record: %w", err)
	}
	return nil
}

// runningProcess returns the PID recorded in path, or 0 when that process is
// not running any more.
func runningProcess(path string) (int, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read process record: %w", err)
	}
	var p process
	if err := json.Unmarshal(data, &p); err != nil {
		return 0, fmt.Errorf("read process record %s: %w", path, err)
	}
	if start, err := startTime(p.PID); err != nil || start != p.StartTime {
		return 0, nil
	}
	return p.PID, nil
}

// killProcess ends the recorded process and waits until it is gone.
func killProcess(path string) error {
	pid, err := runningProcess(path)
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	// The kernel offers no wait for a process that is not a child, except
	// through a pidfd, which not every supported kernel has.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if still, err := runningProcess(path); err != nil || still == 0 {
			os.Remove(path)
			return err
		}
	}
	return fmt.Errorf("process %d did not end within 20 s of SIGKILL", pid)
}

// detached starts a process in a session of its own, so that it outlives the
// command and the terminal that started it.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

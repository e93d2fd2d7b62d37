package executor

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/stewards"
)

// serialLog is the name of a guest's serial log in its folder. virtlogd adds a dot
// and a number to those that it has rotated.
const serialLog = "serial.log"

// guestLogs are the files that hold the serial console output of guests and libvirt's
// logs of their emulators. Like a pod's logs, they live as long as their instance.
type guestLogs struct {
	// dir holds <namespace>/<name>/serial.log: a folder for each instance, because
	// a name may be as long as a file's name can be. emulator is where libvirt keeps
	// its log of each domain; empty when that is not known.
	dir, emulator string
	// mu keeps a namespace's folder from being removed before a log is in it.
	mu *sync.Mutex
}

func newGuestLogs(config Config) guestLogs {
	return guestLogs{dir: config.LogDir, emulator: config.EmulatorLogDir, mu: &sync.Mutex{}}
}

// folder returns the folder of the instance's logs.
func (l guestLogs) folder(key stewards.Key) string {
	return filepath.Join(l.dir, key.Namespace, key.Name)
}

// flatSuffix ends the name of a log that an earlier version of the agent put beside
// the folders. A guest that the earlier version started still writes to such a log.
const flatSuffix = "-serial.log"

// flat returns the path at which an earlier version put the instance's log.
func (l guestLogs) flat(key stewards.Key) string { return l.folder(key) + flatSuffix }

// makeSerialLog returns the path of the instance's serial log, and makes the file.
func (l guestLogs) makeSerialLog(key stewards.Key) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.MkdirAll(l.folder(key), 0o711); err != nil {
		return "", fmt.Errorf("make the serial log's folder: %w", err)
	}
	path := filepath.Join(l.folder(key), serialLog)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return "", fmt.Errorf("make the serial log: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("make the serial log: %w", err)
	}
	return path, nil
}

// has reports whether there are logs of the instance.
func (l guestLogs) has(key stewards.Key) bool {
	if _, err := os.Lstat(l.folder(key)); err == nil {
		return true
	}
	info, err := os.Lstat(l.flat(key))
	return err == nil && info.Mode().IsRegular()
}

// removeLogs deletes the instance's logs with their rotated parts, and its namespace's
// folder when that is empty. It deletes the instance's folder after the emulator's
// log, because keys and has find the instance by its folder.
func (l guestLogs) removeLogs(key stewards.Key) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.emulator != "" {
		name := hypervisor.Ref{Namespace: key.Namespace, Name: key.Name}.DomainName() + ".log"
		if err := removeRotated(filepath.Join(l.emulator, name)); err != nil {
			return fmt.Errorf("remove the emulator's log: %w", err)
		}
	}
	if info, err := os.Lstat(l.flat(key)); err == nil && info.Mode().IsRegular() {
		if err := removeRotated(l.flat(key)); err != nil {
			return fmt.Errorf("remove the serial log: %w", err)
		}
	}
	if err := os.RemoveAll(l.folder(key)); err != nil {
		return fmt.Errorf("remove the serial log: %w", err)
	}
	// This fails, as it should, while the namespace's folder holds other logs.
	_ = os.Remove(filepath.Join(l.dir, key.Namespace))
	return nil
}

// removeRotated removes a log and its rotated parts.
func removeRotated(path string) error {
	for part := 0; ; part++ {
		err := os.Remove(path + "." + strconv.Itoa(part))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// keys returns the instances that have logs.
func (l guestLogs) keys(log *slog.Logger) []stewards.Key {
	folders, err := filepath.Glob(filepath.Join(l.dir, "*", "*"))
	if err != nil {
		log.Warn("serial logs could not be listed", "dir", l.dir, "err", err)
	}
	keys := make([]stewards.Key, 0, len(folders))
	for _, folder := range folders {
		name := filepath.Base(folder)
		if info, err := os.Lstat(folder); err != nil || !info.IsDir() {
			var flat bool
			if name, flat = strings.CutSuffix(name, flatSuffix); err != nil || !flat {
				continue
			}
		}
		keys = append(keys, stewards.Key{Namespace: filepath.Base(filepath.Dir(folder)), Name: name})
	}
	return keys
}

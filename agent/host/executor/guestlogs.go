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

// logSuffix ends the name of a serial log. virtlogd adds a dot and a number to
// those that it has rotated.
const logSuffix = "-serial.log"

// guestLogs are the files that keep what guests print on their consoles, by
// namespace and name, and what libvirt wrote of their emulators. They live as long
// as their instance does, as a pod's logs.
type guestLogs struct {
	// dir holds a folder of serial logs for each namespace. emulator is where
	// libvirt keeps its log of each domain; empty when that is not known.
	dir, emulator string
	// mu keeps a namespace's folder from being removed before a log is in it.
	mu *sync.Mutex
}

func newGuestLogs(config Config) guestLogs {
	return guestLogs{dir: config.LogDir, emulator: config.EmulatorLogDir, mu: &sync.Mutex{}}
}

func (l guestLogs) path(key stewards.Key) string {
	return filepath.Join(l.dir, key.Namespace, key.Name+logSuffix)
}

// open returns the path of the instance's serial log, and makes the file.
func (l guestLogs) open(key stewards.Key) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	path := l.path(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return "", fmt.Errorf("make the serial log's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return "", fmt.Errorf("make the serial log: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("make the serial log: %w", err)
	}
	return path, nil
}

// has tells whether there is a log of the instance.
func (l guestLogs) has(key stewards.Key) bool {
	_, err := os.Lstat(l.path(key))
	return err == nil
}

// remove drops the instance's logs with their rotated parts, and its namespace's
// folder when that is empty.
func (l guestLogs) remove(key stewards.Key) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.emulator != "" {
		name := hypervisor.Ref{Namespace: key.Namespace, Name: key.Name}.DomainName() + ".log"
		if err := removeRotated(filepath.Join(l.emulator, name)); err != nil {
			return fmt.Errorf("remove the emulator's log: %w", err)
		}
	}
	if err := removeRotated(l.path(key)); err != nil {
		return fmt.Errorf("remove the serial log: %w", err)
	}
	// It is not empty as long as there are others in the namespace.
	_ = os.Remove(filepath.Dir(l.path(key)))
	return nil
}

// removeRotated removes a log and its rotated parts. The log itself goes last: it
// is what shows that there is something.
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

// keys returns the instances that have a log.
func (l guestLogs) keys(log *slog.Logger) []stewards.Key {
	paths, err := filepath.Glob(filepath.Join(l.dir, "*", "*"+logSuffix))
	if err != nil {
		log.Warn("serial logs could not be listed", "dir", l.dir, "err", err)
	}
	keys := make([]stewards.Key, 0, len(paths))
	for _, path := range paths {
		keys = append(keys, stewards.Key{
			Namespace: filepath.Base(filepath.Dir(path)), Name: strings.TrimSuffix(filepath.Base(path), logSuffix),
		})
	}
	return keys
}

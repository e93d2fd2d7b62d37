package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/stewards"
)

// logSuffix ends the name of a serial log. virtlogd adds a dot and a number to
// those that it has rotated.
const logSuffix = "-serial.log"

// serialLogs are the files that keep what guests print on their consoles, by
// namespace and name. They live as long as their instance does, as a pod's logs.
type serialLogs struct{ dir string }

func (l serialLogs) path(key stewards.Key) string {
	return filepath.Join(l.dir, key.Namespace, key.Name+logSuffix)
}

// open returns the instance's log, which libvirt makes.
func (l serialLogs) open(key stewards.Key) (string, error) {
	path := l.path(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return "", fmt.Errorf("make the serial log's directory: %w", err)
	}
	return path, nil
}

// has tells whether there is a log of the instance.
func (l serialLogs) has(key stewards.Key) bool {
	_, err := os.Lstat(l.path(key))
	return err == nil
}

// remove drops the instance's log and its rotated parts.
func (l serialLogs) remove(key stewards.Key) error {
	path := l.path(key)
	for part := 0; ; part++ {
		err := os.Remove(path + "." + strconv.Itoa(part))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return fmt.Errorf("remove the serial log: %w", err)
		}
	}
	// The log itself comes last: it is what shows that there is something.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the serial log: %w", err)
	}
	return nil
}

// keys returns the instances that have a log.
func (l serialLogs) keys(log *slog.Logger) []stewards.Key {
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

// removeLog drops the log of an instance that the mesh says is gone or elsewhere.
func (e *Executor) removeLog(ctx context.Context, key stewards.Key) error {
	if !e.logs.has(key) {
		return nil
	}
	vmi, err := e.ask(ctx, key)
	switch {
	case err == nil && vmi.Status.NodeName == e.Host:
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("ask the mesh about %s: %w", key, err)
	}
	return e.logs.remove(key)
}

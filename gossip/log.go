package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// newLibraryLogger returns a logger for memberlist, which writes lines such as
// "[WARN] memberlist: text". It lowers every level by one, because what memberlist
// calls an error happens in normal operation. Messages about single probes are logged
// at debug level, and nothing is logged after stop was closed.
func newLibraryLogger(l *slog.Logger, stop <-chan struct{}) *log.Logger {
	return log.New(libraryLog{l, stop}, "", 0)
}

type libraryLog struct {
	logger *slog.Logger
	stop   <-chan struct{}
}

// probeTroubles are the beginnings of errors about single probes. There are many of
// them for every dead member, and the change of its state is logged anyway.
var probeTroubles = [][]byte{
	[]byte("Failed fallback TCP ping"), []byte("Failed to send ack"), []byte("Failed to send nack"),
}

// Write logs one line.
func (w libraryLog) Write(line []byte) (int, error) {
	level, text := slog.LevelInfo, bytes.TrimSpace(line)
	if rest, ok := bytes.CutPrefix(text, []byte("[")); ok {
		if name, rest, ok := bytes.Cut(rest, []byte("] ")); ok {
			text = rest
			switch string(name) {
			case "DEBUG", "INFO":
				level = slog.LevelDebug
			case "WARN":
				level = slog.LevelInfo
			case "ERR", "ERROR":
				level = slog.LevelWarn
			}
		}
	}
	text = bytes.TrimPrefix(text, []byte("memberlist: "))
	for _, prefix := range probeTroubles {
		if bytes.HasPrefix(text, prefix) {
			level = slog.LevelDebug
		}
	}
	select {
	case <-w.stop:
		return len(line), nil
	default:
	}
	ctx := context.Background()
	if w.logger.Enabled(ctx, level) {
		w.logger.Log(ctx, level, string(text))
	}
	return len(line), nil
}

package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// newLibraryLogger returns a logger for memberlist, which writes lines such as
// "[WARN] memberlist: text". Its levels are kept, except that what it calls an
// error is a warning here: lost packets and unreachable members are its daily
// bread.
func newLibraryLogger(l *slog.Logger) *log.Logger {
	return log.New(libraryLog{l}, "", 0)
}

type libraryLog struct{ logger *slog.Logger }

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
	ctx := context.Background()
	if w.logger.Enabled(ctx, level) {
		w.logger.Log(ctx, level, string(bytes.TrimPrefix(text, []byte("memberlist: "))))
	}
	return len(line), nil
}

package api

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// SetLibraryLogger sends what the Kubernetes libraries log to logger. Their logger
// is one of the whole process and must not change while they run, so the program
// calls this once, before it makes a Server.
func SetLibraryLogger(logger *slog.Logger) { klog.SetSlogLogger(logger) }

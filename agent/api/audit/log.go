package audit

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/natefinch/lumberjack.v2"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	k8saudit "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// maxIDLength bounds the ID that a client gives a request. Every event repeats it.
const maxIDLength = 64

// Log is the audit log of this host. It is safe for concurrent use. The nil Log writes nothing.
type Log struct {
	file    *lumberjack.Logger
	backend k8saudit.Backend
	rules   k8saudit.PolicyRuleEvaluator
}

// Open begins to write the log that c describes, by default below stateDir. It returns nil if the
// log is off. It fails if the policy cannot be read or the file cannot be written.
func Open(c Config, stateDir string) (*Log, error) {
	if c.Off {
		return nil, nil
	}
	rules := DefaultPolicy()
	if c.Policy != "" {
		var err error
		if rules, err = policy.LoadPolicyFromFile(c.Policy); err != nil {
			return nil, fmt.Errorf("audit.policy: %w", err)
		}
	}
	if c.File == "" {
		c.File = filepath.Join(stateDir, "audit", "audit.log")
	}
	if c.MaxSizeMiB == 0 {
		c.MaxSizeMiB = defaultSizeMiB
	}
	if c.MaxFiles == 0 {
		c.MaxFiles = defaultFiles
	}
	if err := os.MkdirAll(filepath.Dir(c.File), 0o700); err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	// The library takes the mode of a new file from the one before, and else 0600.
	probe, err := os.OpenFile(c.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	if err := probe.Close(); err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	file := &lumberjack.Logger{Filename: c.File, MaxSize: c.MaxSizeMiB, MaxBackups: c.MaxFiles, MaxAge: c.MaxAgeDays, Compress: true}
	backend := patient{auditlog.NewBackend(file, auditlog.FormatJson, auditv1.SchemeGroupVersion)}
	return &Log{file: file, backend: backend, rules: policy.NewPolicyRuleEvaluator(rules)}, nil
}

// patient lets a request through whose event could not be written: a full disk must not keep the
// administrator from mending it. The library logs and counts the event that is lost.
type patient struct {
	k8saudit.Backend
}

// ProcessEvents implements audit.Sink.
func (p patient) ProcessEvents(events ...*auditinternal.Event) bool {
	p.Backend.ProcessEvents(events...)
	return true
}

// Backend returns what events are given to; nil if nothing is written.
func (l *Log) Backend() k8saudit.Backend {
	if l == nil {
		return nil
	}
	return l.backend
}

// Rules returns what is to be written of a request; nil if nothing is written.
func (l *Log) Rules() k8saudit.PolicyRuleEvaluator {
	if l == nil {
		return nil
	}
	return l.rules
}

// Close ends the log. Nothing may be written any more.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	return l.file.Close()
}

// Record writes down the requests to an API of the mesh's own, which next serves. who tells the
// user of a request, and whether the request comes from one who is known.
func (l *Log) Record(who func(*http.Request) (name string, known bool), next http.Handler) http.Handler {
	if l == nil {
		return next
	}
	recorded := filters.WithAuditInit(filters.WithAudit(next, l.backend, l.rules, nil))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, known := who(r)
		info := user.DefaultInfo{Name: name, Groups: []string{user.AllUnauthenticated}}
		if known {
			info.Groups = []string{user.AllAuthenticated}
		}
		ctx := request.WithUser(r.Context(), &info)
		ctx = request.WithRequestInfo(ctx, &request.RequestInfo{Path: r.URL.Path, Verb: strings.ToLower(r.Method)})
		recorded.ServeHTTP(w, r.WithContext(ctx))
	})
}

// BoundIDs drops the ID of a request, from next's view, that is longer than an ID needs to be.
func BoundIDs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Get(auditinternal.HeaderAuditID)) > maxIDLength {
			r = r.Clone(r.Context())
			r.Header.Del(auditinternal.HeaderAuditID)
		}
		next.ServeHTTP(w, r)
	})
}

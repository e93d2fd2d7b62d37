package kinds

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func eventKind() *Kind {
	type event = corev1.Event
	involved := func(value func(corev1.ObjectReference) string) func(runtimeObject) string {
		return forType(func(e *event) string { return value(e.InvolvedObject) })
	}
	return &Kind{
		GVK: core("Event"), Resource: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true,
		Object: &event{}, List: &corev1.EventList{},
		Support:  "works; events expire",
		Writers:  Writers{Spec: "every loop of stewards and host; users"},
		Validate: validateWith(validateEvent),
		Columns: []Column{
			column("Last Seen", func(e *event) any { return lastSeen(e) }),
			column("Type", func(e *event) any { return e.Type }),
			column("Reason", func(e *event) any { return e.Reason }),
			column("Object", func(e *event) any { return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name }),
			wideColumn("Subobject", func(e *event) any { return e.InvolvedObject.FieldPath }),
			wideColumn("Source", func(e *event) any { return eventSource(e) }),
			column("Message", func(e *event) any { return strings.TrimSpace(e.Message) }),
			wideColumn("First Seen", func(e *event) any { return firstSeen(e) }),
			wideColumn("Count", func(e *event) any { return strconv.Itoa(int(eventCount(e))) }),
		},
		Fields: map[string]func(obj runtimeObject) string{
			"involvedObject.kind":            involved(func(r corev1.ObjectReference) string { return r.Kind }),
			"involvedObject.namespace":       involved(func(r corev1.ObjectReference) string { return r.Namespace }),
			"involvedObject.name":            involved(func(r corev1.ObjectReference) string { return r.Name }),
			"involvedObject.uid":             involved(func(r corev1.ObjectReference) string { return string(r.UID) }),
			"involvedObject.apiVersion":      involved(func(r corev1.ObjectReference) string { return r.APIVersion }),
			"involvedObject.resourceVersion": involved(func(r corev1.ObjectReference) string { return r.ResourceVersion }),
			"involvedObject.fieldPath":       involved(func(r corev1.ObjectReference) string { return r.FieldPath }),
			"reason":                         forType(func(e *event) string { return e.Reason }),
			"reportingComponent":             forType(func(e *event) string { return e.ReportingController }),
			"source":                         forType(eventSource),
			"type":                           forType(func(e *event) string { return e.Type }),
		},
	}
}

func validateEvent(e *corev1.Event) field.ErrorList {
	ns := e.InvolvedObject.Namespace
	if ns == "" {
		ns = "default" // the namespace of events about cluster-scoped objects
	}
	if ns != e.Namespace {
		return field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace")}
	}
	return nil
}

func eventSource(e *corev1.Event) string {
	if e.Source.Component != "" {
		return e.Source.Component
	}
	return e.ReportingController
}

func eventCount(e *corev1.Event) int32 {
	switch {
	case e.Series != nil:
		return e.Series.Count
	case e.Count > 1:
		return e.Count
	}
	return 1
}

func lastSeen(e *corev1.Event) string {
	switch {
	case e.Series != nil:
		return sinceMicro(e.Series.LastObservedTime)
	case !e.LastTimestamp.IsZero():
		return sinceHuman(e.LastTimestamp)
	}
	return firstSeen(e)
}

func firstSeen(e *corev1.Event) string {
	if e.FirstTimestamp.IsZero() {
		return sinceMicro(e.EventTime)
	}
	return sinceHuman(e.FirstTimestamp)
}

// Package metrics shows the counters of this host's guests to Prometheus,
// under the names and labels that KubeVirt gives them, so that its dashboards and
// alerts work here.
//
// Invariants:
//   - A scrape reads all guests in one call, is bounded in time, and never runs
//     beside another one.
//   - A scrape that fails shows none of the guests, rather than some of them or
//     old figures, and counts as virtmesh_guest_scrape_failures_total.
//   - Label values come from our own objects and from the metadata that we gave
//     the domain. A guest can influence values, but never labels or the number of
//     series: what its agent reports of its operating system is not shown.
//
// The package keeps no figures between scrapes and does not serve them: the
// agent registers the Collector with its registry.
package metrics

// Package registry makes, from the registration of a kind, the storage that the API
// server library serves: one generic strategy and store for all kinds, their status
// subresource, their table output, and the few resources that need more, such as
// namespaces.
//
// On create, status is cleared and metadata.generation starts at 1. On update, status
// is not changed and the generation counts changes of the spec. On an update of status,
// only status is changed.
package registry

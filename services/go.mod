module github.com/vmhost-project/vmhost/services

go 1.26.0

// The web UI is an npm project; some npm packages ship Go files.
ignore ./webui

require (
	github.com/vmhost-project/vmhost/pkg v0.0.0
	github.com/vmhost-project/vmhost/proto v0.0.0
)

replace (
	github.com/vmhost-project/vmhost/pkg => ../pkg
	github.com/vmhost-project/vmhost/proto => ../proto
)

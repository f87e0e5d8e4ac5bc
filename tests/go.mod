module github.com/vmhost-project/vmhost/tests

go 1.26.0

require (
	github.com/vmhost-project/vmhost/pkg v0.0.0
	github.com/vmhost-project/vmhost/proto v0.0.0
	github.com/vmhost-project/vmhost/services v0.0.0
)

replace (
	github.com/vmhost-project/vmhost/pkg => ../pkg
	github.com/vmhost-project/vmhost/proto => ../proto
	github.com/vmhost-project/vmhost/services => ../services
)

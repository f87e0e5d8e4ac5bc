module github.com/vmhost-project/vmhost/tools/testreport

go 1.26.0

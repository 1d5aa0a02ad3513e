"""interface stub to be replaced"""
